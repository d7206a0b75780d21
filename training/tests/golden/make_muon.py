"""Makes muon.json: matrices after some steps of Muon, once by torch.optim.Muon, whose iterations are in bf16, and once in f64 by
the few lines below; and an embedding table beside them after as many steps of torch.optim.AdamW.

usage: make_muon.py [FOLDER]     needs torch (2.9 or later), numpy
"""
import json, pathlib, sys
import numpy, torch

here = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
here = here if here.is_dir() else here.parent
STEPS, LEARNING_RATE, DECAY, MOMENTUM, ITERATIONS = 4, 0.02, 0.1, 0.95, 5
# query, key and value stand in one tensor of 12 columns; the last two are a tall and a wide one
MATRICES = {"q": (8, 12), "k": (4, 12), "v": (12, 12), "tall": (20, 6), "wide": (6, 20)}
TABLE = (5, 4)


def rounded(values, digits=8):
    return [rounded(v, digits) for v in values] if isinstance(values, list) else float(f"{values:.{digits}g}")


def orthogonal(x):
    a, b, c = 3.4445, -4.7750, 2.0315
    if x.shape[0] > x.shape[1]:
        return orthogonal(x.T).T
    x = x / max(numpy.linalg.norm(x), 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def in_f64(start, gradients):
    w, mean = start.astype("f8"), numpy.zeros(start.shape)
    for g in gradients.astype("f8"):
        mean = MOMENTUM * mean + (1 - MOMENTUM) * g
        update = orthogonal((1 - MOMENTUM) * g + MOMENTUM * mean)
        w = w * (1 - LEARNING_RATE * DECAY) - LEARNING_RATE * 0.2 * max(w.shape) ** 0.5 * update
    return w


def by_torch(start, gradients, optimizer, **options):
    w = torch.nn.Parameter(torch.tensor(start))
    optimizer = optimizer([w], lr=LEARNING_RATE, weight_decay=DECAY, **options)
    for g in gradients:
        w.grad = torch.tensor(g)
        optimizer.step()
    return w.detach()


random = numpy.random.default_rng(3)
golden = dict(versions=dict(torch=torch.__version__, numpy=numpy.__version__), steps=STEPS, learning_rate=LEARNING_RATE,
              weight_decay=DECAY, momentum=MOMENTUM, iterations=ITERATIONS, matrices={})
for name, shape in MATRICES.items():
    start = random.standard_normal(shape).astype("f4") * numpy.float32(0.1)
    # gradients of one kind of step have something in common
    gradients = (random.standard_normal((STEPS, *shape)) + random.standard_normal(shape)).astype("f4") * numpy.float32(0.01)
    torchs = by_torch(start, gradients, torch.optim.Muon, momentum=MOMENTUM, nesterov=True, ns_steps=ITERATIONS,
                      adjust_lr_fn="match_rms_adamw")
    golden["matrices"][name] = dict(start=rounded(start.tolist()), gradients=rounded(gradients.tolist()),
                                    f64=rounded(in_f64(start, gradients).tolist()), torch=rounded(torchs.tolist()))
start, gradients = (random.standard_normal(s).astype("f4") for s in (TABLE, (STEPS, *TABLE)))
golden["table"] = dict(start=rounded(start.tolist()), gradients=rounded(gradients.tolist()),
                       torch=rounded(by_torch(start, gradients, torch.optim.AdamW, betas=(0.9, 0.95), eps=1e-8).tolist()))
(here / "muon.json").write_text(json.dumps(golden) + "\n")
far = max(abs(numpy.array(m["f64"]) - numpy.array(m["torch"])).max() for m in golden["matrices"].values())
print(f"torch {torch.__version__}: the two differ by {far:.1e} at most, of steps of {LEARNING_RATE * 0.2 * 20 ** 0.5:.1e}")
