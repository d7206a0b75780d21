"""Writes metrics.json: what the field's own programs say about pairs of texts.

    pip install sacrebleu rouge-score nltk jiwer
    python make_metrics.py

NLTK's trained sentence model is not used: the sentence step is NLTK's Punkt algorithm with the abbreviations of
eval/metrics/abbreviations.txt and nothing else, which is what the crate does.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import jiwer
import sacrebleu
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from rouge_score.rouge_scorer import RougeScorer

HERE = Path(__file__).parent

# (reference, hypothesis)
PAIRS = [
    # alike, nearly alike, unlike
    ("The quick brown fox jumps over the lazy dog.", "The quick brown fox jumps over the lazy dog."),
    ("The quick brown fox jumps over the lazy dog.", "The fast brown fox jumped over the lazy dog."),
    ("A man is playing a guitar on stage.", "A woman plays the violin in a park."),
    ("A man is playing a guitar.", "Stock prices fell sharply on Monday!"),
    ("Two dogs run through the snow.", "through the snow two dogs run"),
    # empty, blank, very short
    ("", ""),
    ("", "something out of nothing"),
    ("something is lost", ""),
    ("   ", "\n\t"),
    ("Yes", "Yes"),
    ("Yes", "No"),
    ("Yes, I do", "Yes, I do"),
    (".", "."),
    ("a", "a a a a a a"),
    # repeated words
    ("the the the the the", "the"),
    ("the cat the cat the cat", "the the the cat cat dog"),
    ("very very good", "very good very good"),
    # numbers, punctuation, entities
    ("It cost $3.88 in 1990, i.e. 1,000 times more.", "It costs $3.90 in 1990, e.g. 1,000 times less."),
    ("pages 12-15 (see fig. 3) of the state-of-the-art", "pages 12–15 [see figure 3] of the state of the art"),
    ("5-year-old U.S. law; x<y && z>w @home #1 50% * 2", "5 year old US law: x < y && z > w at home no. 1, 50 %"),
    ("&quot;Hi&quot; &amp; &lt;b&gt;", "\"Hi\" & <b>"),
    ("<skipped>left over", "left over"),
    ("semi-\nautomatic lines\nbroken here", "semiautomatic lines broken here"),
    ("Wait... what?! No way -- really---no.", "Wait… what? No way — really – no."),
    ("Trailing space and stop. ", "Trailing space and stop."),
    ("ends with a colon:", "ends with a comma,"),
    ("colon at line end:\nnext, line\n", "colon at line end:\n"),
    ("double colon ::\n", "a::b ,,c"),
    # quotes, clitics, contractions
    ("\"I can't,\" he said, \"don't 'ask' me.\"", "''I cannot'', he said, ``do not \"ask\" me.``"),
    ("They'll say it's John's and we're sure you've won, I'd bet I'm right", "THEY'LL SAY IT'S JOHN'S AND WE'RE SURE YOU'VE WON, DON'T"),
    ("I'm gonna wanna cannot gimme lemme gotta d'ye more'n", "'Tis 'twas whaddya wanna, Cannots scannot 'em rock 'n' roll"),
    ("the dogs' bones and the '90s", "the dogs ' bones and 'the 90s'"),
    ("“Curly quotes” ‘single’ «guillemets» „low“", "\"Curly quotes\" 'single' <<guillemets>> ,,low''"),
    ("(He said \"no.\") [Then] {left}.", "(He said \"no\".) [Then] {left}."),
    ("`code` and ``more code`` in `rust`", "code and more code in rust"),
    # sentences
    ("Dr. J. Smith left at 5 p.m. on Monday. He met Mr. Jones. \"Why?\" No one knows.", "Dr Smith left. He met Jones. Why? No one knows"),
    ("First. Second! Third? (Fourth.) 'Fifth.' Sixth", "First. second! third? Fourth. fifth. sixth."),
    ("Items: 1. apples 2. pears 3. Plums. And so on etc. and more etc. More", "1. apples. 2. pears. 3. plums."),
    ("Great!!! Really?! Yes... maybe . . . no.Nospace here.", "Great! Really? Yes. Maybe. No. No space here."),
    ("He works at Acme Inc. Bob works at A.B.C. too. J. R. R. Tolkien wrote. x. y", "He works at Acme Inc. and J. R. R. Tolkien."),
    ("Version 2.0.1 is out. Use std::fs, see a.b.c(d). Done.", "Version 2.0.1 is out. Use std::fs; see a.b.c(d). Done."),
    ("One.\n\nTwo.\nThree. \"Four.\"\n--five", "One. Two. Three. Four. -- five"),
    # other scripts, accents, emoji
    ("Café au lait für Élodie, naïve coöperation", "Cafe\u0301 au lait fur Elodie, naive cooperation"),
    ("Кошка сидит на окне. Она спит.", "Кошка лежит на окне. Она спит!"),
    ("猫が窓に座っている。", "犬が窓に座っていた。"),
    ("The 🐈 sat on the 🪟 👩‍👩‍👧", "The 🐈 sat on a 🪟 👨‍👩‍👧"),
    ("İstanbul ΣΊΣΥΦΟΣ straße", "istanbul σίσυφος STRASSE"),
    ("non\u00a0breaking\u2003space", "non breaking space"),
    # long, code, formulas
    ("fn main() { println!(\"{}\", a[0] + b->c); } // ok", "fn main() { println!(\"{}\", a[1] + b.c) } // ok"),
    ("E = mc^2, so \\frac{a}{b} \\leq \\sum_{i=1}^{n} x_i", "E = mc^2, so a/b <= sum of x_i for i from 1 to n"),
    (
        "In computing, an inverse function is one that undoes another: given a vector, the decoder has to find the text "
        "which the encoder would have turned into that vector, and there may be many such texts.",
        "In computing, the inverse of a function undoes it: given the vector, a decoder should find a text that the "
        "encoder would turn into this vector, and there might be many of such texts, or none.",
    ),
    ("ties ties tie tie", "tie tie ties ties"),
]


def f1(shared, reference, hypothesis):
    """As vec2text computes it, without its 1e-20 terms, which matter for empty texts only (0)."""
    if shared == 0:
        return 0.0
    precision, recall = shared / hypothesis, shared / reference
    return 2 * precision * recall / (precision + recall)


def main():
    punkt_parameters = PunktParameters()
    abbreviations = (HERE / "../../metrics/abbreviations.txt").read_text().split()
    punkt_parameters.abbrev_types = set(abbreviations)
    punkt = PunktSentenceTokenizer(punkt_parameters)
    treebank = NLTKWordTokenizer()
    rouge = RougeScorer(["rougeL"], use_stemmer=False)

    def word_tokenize(text):
        return [token for sentence in punkt.tokenize(text) for token in treebank.tokenize(sentence)]

    rows = []
    for reference, hypothesis in PAIRS:
        r, h = word_tokenize(reference), word_tokenize(hypothesis)
        rows.append({
            "reference": reference,
            "hypothesis": hypothesis,
            "sentences": punkt.tokenize(reference),
            "treebank": treebank.tokenize(reference),
            "words": r,
            "hypothesis_treebank": treebank.tokenize(hypothesis),
            "bleu_without_effective_order": sacrebleu.corpus_bleu([hypothesis], [[reference]]).score,
            "sentence_bleu": sacrebleu.sentence_bleu(hypothesis, [reference]).score,
            "chrf": sacrebleu.sentence_chrf(hypothesis, [reference]).score,
            "token_f1": f1(sum(min(r.count(w), h.count(w)) for w in set(r)), len(r), len(h)),
            "token_set_f1": f1(len(set(r) & set(h)), len(set(r)), len(set(h))),
            # jiwer refuses an empty reference
            "cer": jiwer.cer(reference, hypothesis) if reference.strip() else None,
            "rouge_l": rouge.score(reference, hypothesis)["rougeL"].fmeasure,
        })

    def corpus(pairs):
        references, hypotheses = [p[0] for p in pairs], [p[1] for p in pairs]
        return {
            "bleu": sacrebleu.corpus_bleu(hypotheses, [references]).score,
            "chrf": sacrebleu.corpus_chrf(hypotheses, [references]).score,
        }

    golden = {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ["sacrebleu", "rouge-score", "nltk", "jiwer"]},
        },
        "rows": rows,
        "corpus": corpus(PAIRS),
        # ranges of the rows, scored as corpora of their own; some have no matching 4-gram, or none at all
        "ranges": [{"from": i, "to": j, **corpus(PAIRS[i:j])} for i, j in [(0, 5), (2, 4), (5, 9), (9, 14), (14, 30), (42, 48)]],
    }
    text = json.dumps(golden, ensure_ascii=False, indent=1)
    (HERE / "metrics.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
