"""What each phase does."""

import json
import shutil
import time

import survivors
from steps import say

# KEYS of decoders of about so many parameters with a vocabulary of 32,768, heads 64 wide (1b: 128)
KEYS = ("hidden", "layers", "heads", "ffn")
SIZES = {
    "25m": (384, 6, 6, 1024),
    "60m": (640, 8, 10, 1728),
    "100m": (768, 10, 12, 2048),
    "300m": (1024, 20, 16, 2816),
    "1b": (2048, 18, 16, 5632),
}
TINY = {"25m": (32, 2, 2, 64), "60m": (48, 2, 2, 96)}
# target tokens of a step, in the bench and in training
BATCH_TOKENS = {"25m": 16384, "60m": 16384, "100m": 16384, "300m": 32768, "1b": 65536}


def doctor(steps, args, manifest):
    steps.run("doctor", "doctor", "--json", again=True)
    checks = {check["name"]: check for check in steps.found("doctor").get("checks", [])}
    names = ["libtorch", "libtorch_cuda", "CUDA devices", "CUDA part", "bf16", "threads", "memory", "disk"]
    steps.tell("| | |", "|---|---|", *(f"| {name} | {checks[name]['found']} |" for name in names if name in checks))


def parity(steps, args, manifest):
    encoder = ["--encoder", "encoder", "--golden", "golden.safetensors"]
    steps.run("parity", "parity", "--device", args.device, *encoder, "--json")
    found = steps.found("parity")
    if found:
        steps.tell("| | between | what | measure | found | allowed |", "|---|---|---|---|---|---|")
    for check in found.get("checks", []):
        # JSON has no NaN
        value = "NaN" if check["found"] is None else f"{check['found']:.6g}"
        cells = [check["between"], check["what"], check["measure"], value, f"{check['allowed']:g}"]
        steps.tell(f"| {'ok' if check['ok'] else '**WRONG**'} | {' | '.join(cells)} |")


def shape_flags(shape):
    return [word for flag, value in zip(KEYS, shape) for word in (f"--{flag}", value)]


def bench(steps, args, manifest):
    sizes = TINY if args.tiny else SIZES
    device = ["--device", args.device, "--json"]
    rest = 2 + len(sizes)
    for name, shape in sizes.items():
        vocab, batch, length = (97, 4, 8) if args.tiny else (32768, BATCH_TOKENS[name] // 24, 24)
        flags = ["--vocab", vocab, "--prefix", 4, "--batch", batch, "--length", length]
        count = ["--steps", 2 if args.tiny else 20, "--warmup", 1 if args.tiny else 5]
        steps.run(f"train-{name}", "bench", "train", *shape_flags(shape), *flags, *count, *device, share=2 / (rest + 1))
        rest -= 1
    for dtype in ("bf16", "f32"):
        limit = ["--limit", 64] if args.tiny else []
        flags = ["--encoder", "encoder", "--texts", "sample.txt", "--dtype", dtype, "--runs", 2, *limit]
        steps.run(f"encode-{dtype}", "bench", "encode", *flags, *device, share=1 / rest)
        rest -= 1
    table(steps, "train", ["parameters", "tokens_per_s", "ms_per_step", "achieved_gflops", "matmul_gflops", "copy_gb_per_s", "peak_device_bytes"])
    table(steps, "encode", ["texts_per_s", "tokens_per_s", "padding_percent", "matmul_gflops"])


def table(steps, kind, keys):
    rows = [(step, steps.found(step)) for step in steps.done if step.startswith(f"{kind}-") and steps.ok(step)]
    keys = [key for key in keys if any(isinstance(found, dict) and found.get(key) is not None for _, found in rows)]
    if rows:
        steps.tell("", f"| {kind} | {' | '.join(keys)} | of the matrix rate |", "|---" * (len(keys) + 2) + "|")
    for step, found in rows:
        rate, most = found.get("achieved_gflops"), found.get("matmul_gflops")
        cells = [f"{found[key]:,.0f}" if found.get(key) is not None else "" for key in keys]
        steps.tell(f"| {step} | {' | '.join(cells)} | {f'{rate / most:.1%}' if rate and most else ''} |")


def choose(args, seconds):
    """(name of the size, why), by the speeds that the phase bench measured."""
    if args.size:
        return args.size, "as --size says"
    try:
        bench = json.loads((args.out / "bench.json").read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError, KeyError):
        return "recipe", "the speed of training was not measured here (phase bench)"
    # those that did not fit the memory have no speed
    speeds = {step["step"].removeprefix("train-"): step["found"] for step in bench if step["step"].startswith("train-") and step["outcome"] == "ok"}
    left_out = [step["step"].removeprefix("train-") for step in bench if step["step"].startswith("train-") and step["outcome"] != "ok"]
    if not speeds:
        return "recipe", "no size could be timed"
    chosen = min(speeds, key=lambda name: speeds[name]["parameters"])
    for name, found in sorted(speeds.items(), key=lambda item: item[1]["parameters"]):
        if found["tokens_per_s"] * seconds >= args.tokens_per_parameter * found["parameters"]:
            chosen = name
    found = speeds[chosen]
    each = found["tokens_per_s"] * seconds / found["parameters"]
    why = f"the largest that sees {args.tokens_per_parameter:g} tokens a parameter in {seconds / 60:.1f} minutes: it sees {each:.2f}"
    if each < args.tokens_per_parameter:
        why = f"the smallest there is: even it sees only {each:.2f} tokens a parameter in {seconds / 60:.1f} minutes"
    return chosen, why + (f"; not timed here: {', '.join(left_out)}" if left_out else "")


def settings(args, size, manifest):
    """What is changed in the recipe for a size."""
    # the minutes say when it ends
    sets = [f"training.device={args.device}", f"encoder.device={args.device}", "training.max_steps=", "training.max_minutes=60"]
    shapes = TINY if args.tiny else SIZES
    if size in shapes:
        sets += [f"decoder.{key}={value}" for key, value in zip(KEYS, shapes[size])]
        # the recipe's own belong to its own width
        sets += ["decoder.kv_heads=", "decoder.head_dim=", "decoder.projector_hidden="]
        sets += [f"training.batch_tokens={256 if args.tiny else BATCH_TOKENS[size]}"]
    if args.tiny:
        sets += ["tokenizer.vocab=400", "training.eval_every=0", "training.eval_texts=16", "refinement.share=0"]
        sets += ["schedule.warmup_steps=2", *(f"corpus.{at}.limit=400" for at in range(manifest["corpora"]))]
    # what the user says comes last, and holds
    return [word for value in [*sets, *args.set] for word in ("--set", value)]


def pairs(steps, args, manifest, share):
    """Builds the pairs, unless they are there; True where they are."""
    there = (steps.work / "work/pairs/manifest.json").is_file()
    command = ["pairs", "build", "--recipe", "recipe.toml", *settings(args, None, manifest)]
    return steps.run("pairs", *command, share=share, again=not there)


def plan_of(steps, args, seconds, run):
    """(size, why): that of the run that goes on, or a new one's."""
    file = run / "plan.json"
    if (run / "config.toml").is_file() and file.is_file():
        plan = json.loads(file.read_text(encoding="utf-8"))
        if args.size and args.size != plan["size"]:
            raise ValueError(f"the run that is there is of size {plan['size']}: remove {run} and {args.out / 'run'} for another")
        return plan["size"], f"as the run that goes on ({plan['why']})"
    size, why = choose(args, seconds)
    run.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(size=size, why=why), indent=1) + "\n", encoding="utf-8")
    return size, why


def train(steps, args, manifest):
    run = steps.work / "work" / "run"
    survivors.restore(args.out / "run", run)
    if not pairs(steps, args, manifest, share=0.4):
        return
    # for what comes before the first step and behind the last, and to export and keep it
    reserve = max(0.15 * steps.left, min(30, 0.4 * steps.left))
    seconds = max(steps.left - 2 * reserve, 1)
    if args.tiny:
        seconds = min(seconds, 3)
    total = 60 * args.train_minutes if args.train_minutes else seconds + survivors.trained(run)
    # also one that has no checkpoint yet: it is begun anew by that name
    begun = (run / "config.toml").is_file()
    size, why = plan_of(steps, args, total, run)
    shutil.copy(run / "plan.json", args.out / "plan.json")
    say(f"   plan: {size}, {total / 60:.1f} minutes: {why}")
    steps.tell(f"Size {size}, {total / 60:.1f} minutes of training over all calls: {why}.")
    flags = ["--recipe", "recipe.toml", *settings(args, size, manifest), "--max-minutes", f"{total / 60:.3f}"]
    flags += ["--resume"] if begun else []
    if steps.run("train", "train", *flags, "--json", limit=steps.left - reserve, again=True, stops=True):
        export = steps.work / "work" / "export"
        shutil.rmtree(export, ignore_errors=True)
        if steps.run("export", "export", "work/run", "work/export", "--dtype", "bf16", again=True):
            survivors.pack(export, [path for path in export.rglob("*") if path.is_file()], args.out / "export")
    kept = survivors.keep(run, args.out / "run")
    steps.tell("", f"Kept in pieces of at most 16 MB: `export/` ({survivors.HOW}), and `run/`, {kept}.")
    found = steps.found("train")
    if isinstance(found, dict) and found:
        cells = {key: found[key] for key in ("steps", "tokens", "seconds", "loss", "best") if key in found}
        steps.tell("", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in cells.items()))


def eval(steps, args, manifest):
    decoder = steps.work / "work" / "run"
    survivors.restore(args.out / "run", decoder)
    if not (decoder / "checkpoints" / "latest").is_file():
        for step in ("greedy", "suites"):
            steps.skip(step, "there is no decoder yet (phase train)")
        return
    texts = ["--texts", "held-out.txt"]
    if not manifest["held_out"]:
        if not pairs(steps, args, manifest, share=0.5):
            return
        texts = ["--pairs", "work/pairs", "--split", "dev"]
    fast = ["--dtype", "auto", "--encoder-dtype", "auto", "--encoder", "encoder", "--device", args.device, "--batch", 256]
    limit = ["--limit", 16 if args.tiny else 512]
    searches = [8] if args.tiny else [8, 32, 128]
    commands = {"greedy": [], **{f"budget-{budget}": ["--budget", budget] for budget in searches}}
    rest = len(commands) + 3
    for step, flags in commands.items():
        out = ["--out", args.out / f"{step}.result.json", "--json"]
        steps.run(step, "eval", "work/run", *texts, *limit, *fast, *flags, *out, share=1 / rest, again=True)
        rest -= 1
    suites = ["--suite", "reconstruction,self-retrieval,edge-cases,robustness", "--out", args.out / "evaluation.json", "--json"]
    steps.run("suites", "eval", "work/run", *texts, *limit, *fast, *suites, share=1 / rest, again=True)
    most = json.loads((decoder / "decoder.json").read_text(encoding="utf-8"))["max_tokens"]
    count = ["--batch", "1,64,512", "--n", 32 if args.tiny else 512, "--max-tokens", min(32, most)]
    for step, flags in {"decode": [], "decode-graphs": ["--graphs"]}.items():
        command = ["bench", "decode", "work/run", *count, "--device", args.device, *flags, "--json"]
        steps.run(step, *command, share=1 / 2 if not flags else 1, again=True)
    columns = ["n", "bleu", "exact_match", "token_f1", "cosine"]
    steps.tell(f"| | {' | '.join(columns)} | encodings | texts/s |", "|---" * (len(columns) + 3) + "|")
    for step in commands:
        found = steps.found(step)
        if isinstance(found, dict) and "bleu" in found:
            cells = [f"{found[key]:.4g}" for key in columns]
            cost = found["settings"]
            steps.tell(f"| {step} | {' | '.join(cells)} | {cost['encodings']:.1f} | {cost['texts_per_s']:.1f} |")
    for step in ("decode", "decode-graphs"):
        found = steps.found(step)
        for speed in found.get("batches") or ([found] if found else []):
            steps.tell(f"- {step}, batch {speed['batch']}: {speed['texts_per_s']:.1f} texts/s")


def report(steps, args, manifest):
    results = [args.out / f"{step}.result.json" for step in ("greedy", "budget-8", "budget-32", "budget-128")]
    results = [args.out / "evaluation.json", *results]
    results = [result for result in results if result.is_file()]
    if not results:
        steps.skip("page", "nothing was evaluated yet (phase eval)")
        return
    names = [word for result in results for word in ("--name", result.name.removesuffix(".json").removesuffix(".result"))]
    steps.run("page", "report", *results, *names, "--out", args.out / "page", again=True)
    steps.tell("`page/report.html` shows it.")


def summary(out, manifest):
    """All phases in one file."""
    parts = [f"# {manifest['recipe']}, {time.strftime('%Y-%m-%d', time.gmtime())}", ""]
    for phase in ("doctor", "parity", "bench", "train", "eval", "report"):
        file = out / f"{phase}.md"
        if file.is_file():
            parts.append(file.read_text(encoding="utf-8"))
    (out / "summary.md").write_text("\n".join(parts), encoding="utf-8")
