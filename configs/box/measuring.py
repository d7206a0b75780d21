"""The phases that measure speed: bench and gpus."""

import gzip
import sys
from pathlib import Path

import cards

# KEYS of decoders of about so many parameters with a vocabulary of 32,768, heads 64 wide (1b: 128)
KEYS = ("hidden", "layers", "heads", "ffn")
SIZES = {
    "25m": (384, 6, 6, 1024),
    "60m": (640, 8, 10, 1728),
    "100m": (768, 10, 12, 2048),
    "300m": (1024, 20, 16, 2816),
    "1b": (2048, 18, 16, 5632),
}
# those that the peers' programs have of themselves
SMALL = (384, 6, 6, 1024)
TINY = {"25m": (32, 2, 2, 64), "60m": (48, 2, 2, 96)}
# target tokens of a step, and the parts that it is computed in; the bench times one part
BATCH_TOKENS = {"25m": 16384, "60m": 16384, "100m": 16384, "300m": 32768, "1b": 65536}
PARTS = {"25m": 1, "60m": 1, "100m": 1, "300m": 2, "1b": 4}
# dense bf16 of cards by NVIDIA's data sheets, in TFLOP/s; the first name that is part of a card's holds
PEAKS = {
    "B200": 2250,
    "GH200": 989,
    "H200 NVL": 835,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
}
# rows of a profile that are told
TOLD = 12
# what kernels of the program itself begin with, on a CPU and on a GPU
OURS = ("te_", "swiglu_", "turn_")


def peak_tflops(args):
    """What MFU is measured against; None where the card is not known, or is a part of one."""
    card = cards.card(args.device)
    if args.peak_tflops or "MIG" in card:
        return args.peak_tflops
    return next((peak for name, peak in PEAKS.items() if name in card), None)


def shape_flags(shape):
    return [word for flag, value in zip(KEYS, shape) for word in (f"--{flag}", value)]


def train_flags(args, name, shape):
    """Flags that ours and the peers' have alike."""
    vocab, batch, length = (97, 4, 8) if args.tiny else (32768, BATCH_TOKENS[name] // PARTS[name] // 24, 24)
    return [*shape_flags(shape), "--vocab", vocab, "--prefix", 4, "--batch", batch, "--length", length]


def bench(steps, args, manifest):
    sizes = TINY if args.tiny else SIZES
    device = ["--device", args.device, "--json"]
    profiled = [name for name in ("25m", "300m") if name in sizes]
    # with its share of the time: a larger one takes longer
    weights = {f"train-{name}": 2 for name in sizes} | {f"profile-{name}": 1 for name in profiled}
    weights |= {"encode-bf16": 1, "encode-f32": 1, "stella": 2}
    # what our kernels are worth on a GPU
    composed = profiled if cards.names() or args.tiny else []
    weights |= {f"train-{name}-composed": 1 for name in composed}
    # the peers' own shapes, at their batch and at one that fills a GPU
    small = {} if args.tiny else {"17m": 256, "17m-8192": 8192}
    weights |= {f"train-{name}": 1 for name in small}
    if args.peers:
        # compiling takes longer than what is compiled
        for peer, weight in {"torch": 2, "compile": 6}.items():
            weights |= {f"train-{name}-{peer}": weight for name in [*sizes, *small]}
        weights |= {"encode-bf16-peer": 1, "encode-f32-peer": 1}

    def run(step, *command, **more):
        steps.run(step, *command, share=weights[step] / sum(weights.values()), **more)
        del weights[step]

    of_small = {name: [*shape_flags(SMALL), "--vocab", 13312, "--prefix", 4, "--batch", n, "--length", 16] for name, n in small.items()}
    for name, flags in {**of_small, **{name: train_flags(args, name, shape) for name, shape in sizes.items()}}.items():
        count = ["--steps", 2 if args.tiny else 20, "--warmup", 1 if args.tiny else 5]
        ours = ["bench", "train", *flags, *count, "--optimizer", manifest["optimizer"], *device]
        run(f"train-{name}", *ours)
        if name in composed:
            run(f"train-{name}-composed", *ours, environment={"INVERSE_STELLA_GPU_KERNELS": "off"})
        if args.peers:
            for peer, more in {"torch": [], "compile": ["--compile"]}.items():
                program = [sys.executable, args.peers / "train_torch.py"]
                run(f"train-{name}-{peer}", *flags, *count, *more, program=program)
    for name in profiled:
        profile(steps, args, name, lambda *command: run(f"profile-{name}", *command))
    for dtype in ("bf16", "f32"):
        limit = ["--limit", 64] if args.tiny else []
        flags = ["--encoder", "encoder", "--texts", "sample.txt", "--dtype", dtype, "--runs", 2, *limit]
        run(f"encode-{dtype}", "bench", "encode", *flags, *device)
        if args.peers:
            program = [sys.executable, args.peers / "encode_st.py"]
            run(f"encode-{dtype}-peer", "encoder", "sample.txt", dtype, 256, program=program)
    small = ["--layers", 1, "--words", 100, "--batch-tokens", 64, "--batches", 1] if args.tiny else []
    run("stella", "bench", "stella", *small, *device)

    columns = ["parameters", "tokens_per_s", "ms_per_step", "achieved_gflops", "matmul_gflops", "copy_gb_per_s"]
    table(steps, args, "train", [*columns, "peak_device_bytes"])
    table(steps, args, "encode", ["texts_per_s", "sentences_per_s", "tokens_per_s", "padding_percent", "matmul_gflops"])
    table(steps, args, "stella", ["texts_per_s", "tokens_per_s", "length", "achieved_gflops", "matmul_gflops", "peak_device_bytes"])
    for name in profiled:
        tell_profile(steps, name)


def profile(steps, args, name, run):
    """A step by kernel, and the trace for ui.perfetto.dev."""
    shape = (TINY if args.tiny else SIZES)[name]
    trace = steps.folder / f"profile-{name}.trace.json"
    count = ["--steps", 1, "--warmup", 2]
    run("bench", "train", *train_flags(args, name, shape), *count, f"--profile={trace}", "--device", args.device, "--json")
    if trace.is_file():
        Path(f"{trace}.gz").write_bytes(gzip.compress(trace.read_bytes(), 6))
        trace.unlink()


def tell_profile(steps, name):
    found = steps.found(f"profile-{name}").get("profile")
    if not steps.ok(f"profile-{name}") or not found:
        return
    busy = found.get("device_busy_percent")
    said = "no GPU" if busy is None else f"the GPU busy {busy:.1f} % of the time"
    steps.tell("", f"A step of {name}, looked into ({found['ms_per_step']:.1f} ms, {said}):", "")
    steps.tell("| | ms | % | calls |", "|---|---|---|---|")
    rows = found["kernels"] or found["operations"]
    # those of the program itself stand behind the longest
    for row in rows[:TOLD] + [row for row in rows[TOLD:] if row["name"].startswith(OURS)]:
        steps.tell(f"| `{row['name'][:80].replace('|', '/')}` | {row['ms']:.3f} | {row['percent']:.1f} | {row['calls']:.1f} |")


def table(steps, args, kind, keys):
    """What the steps of a kind found, with MFU: operations over what the card's data sheet promises."""
    rows = [(step, steps.found(step)) for step in steps.done if step.split("-")[0] == kind and steps.ok(step)]
    keys = [key for key in keys if any(found.get(key) is not None for _, found in rows)]
    peak = peak_tflops(args)
    if rows:
        steps.tell("", f"| {kind} | {' | '.join(keys)} | of the matrix rate | MFU |", "|---" * (len(keys) + 3) + "|")
    for step, found in rows:
        rate, most = found.get("achieved_gflops"), found.get("matmul_gflops")
        ours = step.removesuffix("-torch").removesuffix("-compile")
        if rate is None and ours != step and steps.ok(ours) and found.get("tokens_per_s"):
            # a peer does the work of ours
            work = steps.found(ours)
            rate, most = work.get("flops_per_token", 0) * found["tokens_per_s"] / 1e9, work.get("matmul_gflops")
        # the ceilings are those of one of the GPUs that share the work
        rate = rate and rate / found.get("processes", 1)
        cells = [f"{found[key]:,.0f}" if found.get(key) is not None else "" for key in keys]
        cells += [f"{rate / most:.1%}" if rate and most else "", f"{rate / 1e3 / peak:.1%}" if rate and peak else ""]
        steps.tell(f"| {step} | {' | '.join(cells)} |")


def processes(args):
    """GPUs that a training may go on."""
    if args.processes:
        return args.processes
    return max(1, len(cards.names())) if args.device in ("auto", "cuda") else 1


def proven(args, found):
    """On how many a training goes: those of the phase gpus that went well, or what the user says."""
    if args.processes:
        return args.processes
    went = [int(step["step"].removeprefix("processes-")) for step in found if step["outcome"] == "ok" and "-" in step["step"]]
    return max([1, *(count for count in went if count <= processes(args))])


def device_bytes(args, doctor):
    """Memory of the GPU that is trained on, or of the smallest of several, that was free when the phase doctor looked; None
    without one."""
    if args.device == "cpu":
        return None
    for step in doctor:
        checks = {check["name"]: check for check in step["found"].get("checks", [])}
        memory = checks.get("CUDA devices", {}).get("data", {}).get("memory") or []
        number = cards.number_of(args.device)
        memory = memory[number : number + 1] if processes(args) == 1 else memory
        return min((device["free"] for device in memory), default=None)
    return None


def launch(count):
    """What stands before a command that several processes share."""
    return ["launch", "--processes", count, "--"] if count > 1 else []


def gain(found):
    """How much faster than one the processes of the phase gpus were, by their number."""
    speeds = {}
    for step in found:
        if step["step"].startswith("processes-") and step["outcome"] == "ok":
            speeds[step["found"]["processes"]] = step["found"]["tokens_per_s"]
    return {count: speed / speeds[1] for count, speed in speeds.items()} if 1 in speeds else {}


def gpus(steps, args, build_pairs, settings):
    """The same steps shared by 1, 2, 4, … processes, each with a GPU of its own."""
    # two processes cannot share a GPU, but a CPU
    count = 2 if args.tiny and not cards.names() else processes(args)
    if count < 2:
        steps.skip("processes", "there is one GPU" if cards.names() else "there is no GPU")
        return
    if not build_pairs(steps, share=0.8):
        return
    counts = sorted({*(2**power for power in range(count.bit_length())), count})
    for number, shared in enumerate(counts):
        command = ["bench", "train", "--recipe", "recipe.toml", *settings("60m" if args.tiny else "300m", shared)]
        flags = ["--steps", 2 if args.tiny else 20, "--json"]
        # one process too, so that what it costs to be several is seen
        steps.run(f"processes-{shared}", "launch", "--processes", shared, "--", *command, *flags, share=1 / (len(counts) - number))
    table(steps, args, "processes", ["processes", "tokens_per_s", "ms_per_step", "matmul_gflops"])
