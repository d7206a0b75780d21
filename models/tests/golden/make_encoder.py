"""Writes encoder.json: texts and the vectors that sentence-transformers gives for them, in f32 on the CPU.

usage: make_encoder.py MODEL_FOLDER   (all-MiniLM-L6-v2 as sentence-transformers saves it)
"""

import json
import pathlib
import sys

import numpy
import sentence_transformers
import tokenizers
import torch
import transformers

TEXTS = [
    "",
    "a",
    ".",
    " ",
    "\t \n",
    "A man is playing a guitar.",
    "  leading and trailing spaces  ",
    "UPPER lower MiXeD",
    "Two dogs run through a field of tall grass, chasing a red ball.",
    "What are some ways to reduce stress?",
    "The mitochondrion is the powerhouse of the cell.",
    "na\u00efve caf\u00e9 co\u00f6perate",
    "nai\u0308ve cafe\u0301 with combining marks",
    "\u00dcber Stra\u00dfen gr\u00f6\u00dferer St\u00e4dte",
    "\u0130stanbul \u0131\u015f\u0131k",
    "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u5427\u3002",
    "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4.",
    "I \u2764\ufe0f pizza \U0001f355\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "control\u0000char\u0007 and \ufffd",
    "zero\u200bwidth and nbsp\u00a0here",
    "E = mc^2 and \u222b f(x) dx = F(b) - F(a)",
    "fn main() { println!(\"{}\", 1 << 3); }",
    "https://example.org/a/b?c=d&e=f#g",
    "3.14159 -42 1,000,000 0x1F",
    "[CLS] special [SEP] tokens [MASK] inside [PAD]",
    "supercalifragilisticexpialidocious",
    "x" * 150,
    "word " * 253,
    "word " * 254,
    "word " * 255,
    "The quick brown fox jumps over the lazy dog, and then it does so again. " * 40,
]

folder = pathlib.Path(sys.argv[1])
model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
# one text at a time: no padding takes part
vectors = numpy.concatenate([model.encode([text]) for text in TEXTS]).astype(numpy.float64).round(6)
golden = {
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "versions": {
        "sentence-transformers": sentence_transformers.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "torch": torch.__version__,
    },
    "texts": TEXTS,
    "tokens": [len(model.tokenizer(text, truncation=False)["input_ids"]) for text in TEXTS],
    "vectors": None,
}
rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in vectors.tolist())
out = pathlib.Path(__file__).with_name("encoder.json")
text = json.dumps(golden, indent=1).replace('"vectors": null', '"vectors": [\n' + rows + "]")
out.write_text(text + "\n", encoding="utf-8")
