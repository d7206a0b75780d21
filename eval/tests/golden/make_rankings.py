"""Writes rankings.json: what scipy says of correlations, and trec_eval of ranked documents.

    pip install scipy pytrec_eval-terrier
    python make_rankings.py
"""

import json
import math
import platform
import random
from importlib.metadata import version
from pathlib import Path

import pytrec_eval
from scipy.stats import pearsonr, spearmanr

HERE = Path(__file__).parent
RANDOM = random.Random(7)


def correlations():
    """Lists with and without ties, alike, unlike, of two."""
    lists = [
        ([1, 2], [2, 1]),
        ([0.0, 0.5, 1.0, 1.0, 4.75], [0.1, 0.3, 0.2, 0.9, 0.8]),
        ([3, 3, 3, 1], [1, 2, 3, 4]),
    ]
    for count in (5, 40, 333):
        gold = [RANDOM.randrange(0, 26) / 5 for _ in range(count)]
        lists.append((gold, [score / 5 + RANDOM.gauss(0, 0.3) for score in gold]))
        lists.append((gold, [round(RANDOM.random(), 1) for _ in gold]))
    rows = []
    for x, y in lists:
        x, y = [float(number) for number in x], [float(number) for number in y]
        rows.append({"x": x, "y": y, "pearson": pearsonr(x, y).statistic, "spearman": spearmanr(x, y).statistic})
    return rows


def as_f32(number):
    import struct

    return struct.unpack("f", struct.pack("f", number))[0]


def rankings():
    """Queries with ties, with grades of several levels, with nothing relevant found."""
    names = [f"d{number}" for number in range(160)]
    queries = []
    for number in range(12):
        coarse = number % 3 == 0
        scores = [as_f32(round(RANDOM.random(), 1) if coarse else RANDOM.random()) for _ in names]
        judged = RANDOM.sample(range(len(names)), RANDOM.randrange(1, 40))
        grades = {document: RANDOM.choice([-1, 0, 0, 1, 1, 2, 3]) for document in judged}
        grades[judged[0]] = 1
        if number == 11:  # the only relevant document is the last one
            last = min(range(len(names)), key=lambda document: scores[document])
            grades = {last: 2, judged[0]: 0} if last != judged[0] else {last: 2}
        qrels = {"q": {names[document]: grade for document, grade in grades.items()}}
        run = {"q": {name: score for name, score in zip(names, scores)}}
        measures = {"ndcg_cut.10", "recall.100", "recip_rank", "ndcg_cut.5"}
        found = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)["q"]
        reciprocal = found["recip_rank"]
        queries.append({
            "scores": scores,
            "grades": {str(document): grade for document, grade in grades.items()},
            "ndcg_cut_5": found["ndcg_cut_5"],
            "ndcg_cut_10": found["ndcg_cut_10"],
            "recall_100": found["recall_100"],
            # trec_eval does not cut it
            "recip_rank_10": reciprocal if reciprocal >= 1 / 10 - 1e-9 else 0.0,
        })
    return {"names": names, "queries": queries}


golden = {
    "versions": {
        "python": platform.python_version(),
        "scipy": version("scipy"),
        "pytrec_eval-terrier": version("pytrec_eval-terrier"),
    },
    "correlations": correlations(),
    "rankings": rankings(),
}
assert all(math.isfinite(row["spearman"]) for row in golden["correlations"])
(HERE / "rankings.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
