"""What each phase does."""

import json
import shutil
import sys
import time

import measuring
import planning
import survivors
from steps import say, write

# in their order
PHASES = ("doctor", "parity", "bench", "gpus", "train", "eval", "report")


def doctor(steps, args, manifest):
    steps.run("doctor", "doctor", "--json", again=True)
    checks = {check["name"]: check for check in steps.found("doctor").get("checks", [])}
    names = ["libtorch", "libtorch_cuda", "CUDA devices", "CUDA part", "bf16", "threads", "memory", "disk"]
    steps.tell("| | |", "|---|---|", *(f"| {name} | {checks[name]['found']} |" for name in names if name in checks))


def parity(steps, args, manifest):
    encoder = ["--encoder", "encoder", "--golden", "golden.safetensors"]
    steps.run("parity", "parity", "--device", args.device, *encoder, "--json")
    found = steps.found("parity")
    if found.get("gpu_kernels"):
        steps.tell(f"Our kernels for GPUs: {found['gpu_kernels']}.", "")
    if found:
        steps.tell("| | between | what | measure | found | allowed |", "|---|---|---|---|---|---|")
    for check in found.get("checks", []):
        # JSON has no NaN
        value = "NaN" if check["found"] is None else f"{check['found']:.6g}"
        cells = [check["between"], check["what"], check["measure"], value, f"{check['allowed']:g}"]
        steps.tell(f"| {'ok' if check['ok'] else '**WRONG**'} | {' | '.join(cells)} |")


def bench(steps, args, manifest):
    measuring.bench(steps, args, manifest)


def gpus(steps, args, manifest):
    measuring.gpus(
        steps,
        args,
        lambda steps, share: pairs(steps, args, manifest, share),
        lambda size, shared: planning.settings(args, size, manifest, steps, processes=shared),
    )


def pairs(steps, args, manifest, share):
    """Builds the pairs, unless they are there; True where they are."""
    there = (steps.work / steps.pairs / "manifest.json").is_file()
    command = ["pairs", "build", "--recipe", "recipe.toml", *planning.settings(args, None, manifest, steps)]
    return steps.run("pairs", *command, share=share, again=not there)


def train(steps, args, manifest):
    run = steps.work / steps.run_folder
    survivors.restore(args.out / "run", run, steps.kin)
    # no training has any use for a part of them
    if not pairs(steps, args, manifest, share=1):
        return
    if not (run / "checkpoints" / "latest").is_file():
        # one that has learnt nothing yet holds nobody to its size
        shutil.rmtree(run, ignore_errors=True)
    reserve, total = minutes_of(steps, args, run)
    left, least = steps.left - 2 * reserve, 0.5 if args.tiny else LEAST_SECONDS
    if left < least:
        steps.note("train", f"no time was left: {max(left, 0):.0f} s to train, and {least} are the least: more --minutes", 0, [])
        return
    plan = planning.plan_of(steps, args, manifest, total, run)
    try:
        go_on(steps, args, manifest, run, plan)
    finally:
        # also of a training that was told to end
        kept = survivors.keep(run, args.out / "run", 1e9 * args.keep_gb, steps.kin)
        steps.tell("", f"Kept in pieces of at most 16 MB: `export/` ({survivors.HOW}), and `run/`, {kept}.")
    found = steps.found("train")
    if found:
        cells = {key: found[key] for key in ("steps", "tokens", "seconds", "loss", "best") if key in found}
        steps.tell("", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in cells.items()))


# a training that is shorter has learnt nothing
LEAST_SECONDS = 10


def go_on(steps, args, manifest, run, plan):
    """Trains by the plan, in more parts a step where the memory is too small for it, and exports."""
    processes = measuring.proven(args, planning.measured(args, "gpus"))
    done = False
    kept = Keeping(run, args, steps.kin)
    while plan and not done:
        # what planning, and a try that failed, took is gone
        reserve, total = minutes_of(steps, args, run)
        shutil.copy(run / "plan.json", args.out / "plan.json")
        size, parts, why = plan["size"], plan.get("parts"), plan["why"]
        say(f"   plan: {size}, {total / 60:.1f} minutes: {why}")
        steps.tell(f"Size {size}, {total / 60:.1f} minutes of training over all calls: {why}.", "")
        sets = planning.settings(args, size, manifest, steps, parts, processes, plan.get("every"))
        flags = ["--recipe", "recipe.toml", *sets, "--max-minutes", f"{total / 60:.3f}"]
        flags += ["--resume"] if (run / "checkpoints" / "latest").is_file() else []
        limit = steps.left - reserve
        launch = measuring.launch(processes)
        command = [*launch, "train", *flags, "--json"]
        done = steps.run("train", *command, limit=limit, again=True, stops=True, meanwhile=kept)
        plan = None if done else planning.smaller_parts(steps, run, plan)
    # also of a training that was ended, or that failed after hours
    if (run / "checkpoints" / "latest").is_file():
        export = steps.work / steps.export
        shutil.rmtree(export, ignore_errors=True)
        if steps.run("export", "export", steps.run_folder, steps.export, "--dtype", "bf16", again=True):
            survivors.set_aside(args.out / "export", steps.kin)
            survivors.pack(export, [path for path in export.rglob("*") if path.is_file()], args.out / "export", steps.kin)


class Keeping:
    """Copies what a training has saved to the results while it goes on: a machine may be gone at any time."""

    def __init__(self, run, args, kin):
        self.run, self.folder, self.most, self.kin = run, args.out / "run", 1e9 * args.keep_gb, kin
        self.last, self.took = None, 0.0

    def __call__(self):
        try:
            latest = (self.run / "checkpoints" / "latest").read_text()
        except OSError:
            return
        if latest == self.last:
            return
        begun = time.monotonic()
        kept = survivors.keep(self.run, self.folder, self.most, self.kin)
        # so that it does not outlast the training's end
        self.took = time.monotonic() - begun
        self.last = latest if kept.startswith("the run as of") else None
        say(f"   kept meanwhile: {kept}")


def minutes_of(steps, args, run):
    """(seconds kept for what comes before the first step, behind the last, and to export; seconds of training in all)."""
    reserve = min(120, max(0.15 * steps.left, min(30, 0.4 * steps.left)))
    seconds = max(steps.left - 2 * reserve, 1)
    if args.tiny:
        seconds = min(seconds, 3)
    return reserve, 60 * args.train_minutes if args.train_minutes else seconds + survivors.trained(run)


def eval(steps, args, manifest):
    decoder = steps.work / steps.run_folder
    survivors.restore(args.out / "run", decoder, steps.kin)
    if not (decoder / "checkpoints" / "latest").is_file():
        for step in ("greedy", "suites"):
            steps.skip(step, "there is no decoder yet (phase train)")
        return
    texts = ["--texts", "held-out.txt"]
    if not manifest["held_out"]:
        if not pairs(steps, args, manifest, share=0.5):
            return
        texts = ["--pairs", steps.pairs, "--split", "dev"]
    fast = ["--dtype", "auto", "--encoder-dtype", "auto", "--encoder", "encoder", "--device", args.device, "--batch", 256]
    limit = ["--limit", 16 if args.tiny else 512]
    searches = [8] if args.tiny else [8, 32, 128]
    commands = {"greedy": [], **{f"budget-{budget}": ["--budget", budget] for budget in searches}}
    rest = len(commands) + 3
    for step, flags in commands.items():
        out = ["--out", args.out / f"{step}.result.json", "--json"]
        steps.run(step, "eval", steps.run_folder, *texts, *limit, *fast, *flags, *out, share=1 / rest, again=True)
        rest -= 1
    suites = ["--suite", "reconstruction,self-retrieval,edge-cases,robustness", "--out", args.out / "evaluation.json", "--json"]
    steps.run("suites", "eval", steps.run_folder, *texts, *limit, *fast, *suites, share=1 / rest, again=True)
    # both decode the vectors of texts, which end, and not random ones, which may not
    texts_file = "held-out.txt" if manifest["held_out"] else "sample.txt"
    encode = ["--encoder", "encoder", "--input", texts_file, "--output", steps.vectors, "--device", args.device]
    steps.run("vectors", "encode", *encode, share=1 / 4, again=True)
    most = json.loads((decoder / "decoder.json").read_text(encoding="utf-8"))["max_tokens"]
    count = ["--batch", "1,64,512", "--n", 32 if args.tiny else 512, "--max-tokens", min(32, most), "--runs", 3]
    count += ["--vectors", steps.vectors] if steps.ok("vectors") else []
    for step, flags in {"decode": [], "decode-graphs": ["--graphs"]}.items():
        command = ["bench", "decode", steps.run_folder, *count, "--device", args.device, *flags, "--json"]
        steps.run(step, *command, share=1 / 2 if not flags else 1, again=True)
    if args.peers:
        transformers(steps, args)
    columns = ["n", "bleu", "exact_match", "token_f1", "cosine"]
    steps.tell(f"| | {' | '.join(columns)} | encodings | texts/s |", "|---" * (len(columns) + 3) + "|")
    for step in commands:
        found = steps.found(step)
        if "bleu" in found:
            cells = [f"{found[key]:.4g}" for key in columns]
            cost = found["settings"]
            steps.tell(f"| {step} | {' | '.join(cells)} | {cost['encodings']:.1f} | {cost['texts_per_s']:.1f} |")
    for step in ("decode", "decode-graphs", "decode-transformers"):
        found = steps.found(step)
        if "texts_per_s" in found and "batch" not in found:
            steps.tell(f"- {step}, batch 64: {found['texts_per_s']:.1f} texts/s")
            continue
        for speed in found.get("batches") or ([found] if found else []):
            steps.tell(f"- {step}, batch {speed['batch']}: {speed['texts_per_s']:.1f} texts/s")


def transformers(steps, args):
    """The peer reads the export, and the same vectors, in f32."""
    export = steps.work / steps.export
    if not export.is_dir() or not steps.ok("vectors"):
        steps.skip("decode-transformers", "there is no export, or there are no vectors")
        return
    program = [sys.executable, args.peers / "generate_hf.py"]
    steps.run("decode-transformers", steps.export, steps.vectors, "--batch", 64, program=program, again=True)


def report(steps, args, manifest):
    # those of another machine, another bundle or a rehearsal may lie there too
    went = {step["step"] for step in planning.measured(args, "eval") if step["outcome"] == "ok"}
    files = {"suites": "evaluation.json"} | {step: f"{step}.result.json" for step in ("greedy", "budget-8", "budget-32", "budget-128")}
    results = [args.out / file for step, file in files.items() if step in went and (args.out / file).is_file()]
    if not results:
        steps.skip("page", "nothing was evaluated yet (phase eval)")
        return
    names = [word for result in results for word in ("--name", result.name.removesuffix(".json").removesuffix(".result"))]
    steps.run("page", "report", *results, *names, "--out", args.out / "page", again=True)
    steps.tell("`page/report.html` shows it.")


def summary(out, manifest):
    """All phases in one file."""
    parts = [f"# {manifest['recipe']}, {time.strftime('%Y-%m-%d', time.gmtime())}", ""]
    for phase in PHASES:
        file = out / f"{phase}.md"
        if file.is_file():
            parts.append(file.read_text(encoding="utf-8"))
    write(out / "summary.md", "\n".join(parts))
