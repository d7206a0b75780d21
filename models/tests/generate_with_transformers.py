"""Reads an export with Hugging Face transformers alone, as its files document, and checks its golden texts.

usage: generate_with_transformers.py EXPORT [EXPORT...]      exit status 0: all texts equal; 77: transformers is not installed
"""
import json, sys
try:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
except ImportError as error:
    print(error)
    sys.exit(77)


def texts(folder, golden):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    spec, w = json.load(open(f"{folder}/projector.json")), load_file(f"{folder}/projector.safetensors")
    v = torch.tensor(golden["vectors"])
    x = (v - w["input.mean"]) * w["input.scale"] if "input.mean" in w else v * spec["input_scale"]
    x = torch.nn.functional.linear(x, w["fc1.weight"], w["fc1.bias"])
    x = {"gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}[spec["activation"]](x)
    prefix = torch.nn.functional.linear(x, w["fc2.weight"], w["fc2.bias"]).view(len(v), spec["prefix_tokens"], spec["hidden"])
    bos = model.get_input_embeddings()(torch.full((len(v), 1), spec["bos_token_id"]))
    with torch.no_grad():
        ids = model.generate(inputs_embeds=torch.cat([prefix, bos], 1), max_new_tokens=golden["max_tokens"], do_sample=False,
                             eos_token_id=spec["eos_token_id"], pad_token_id=spec["pad_token_id"])
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


for folder in sys.argv[1:]:
    golden = json.load(open(f"{folder}/golden.json"))
    found = texts(folder, golden)
    for i, (ours, theirs) in enumerate(zip(golden["texts"], found, strict=True)):
        if ours != theirs:
            sys.exit(f"{folder}: vector {i}: {theirs!r} instead of {ours!r}")
    print(f"{folder}: {len(found)} texts equal")
