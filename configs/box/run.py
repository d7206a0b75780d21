"""Runs the phases of a bundle on this machine. `bash run.sh --help`.

Standard library alone. Each phase ends in time and leaves PHASE.json and PHASE.md in the folder of the results, with what
its steps printed in PHASE/; a step that fails does not stop the next; a second call passes over what is done.
"""

import argparse
import fcntl
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from pathlib import Path

try:
    import cards
    import measuring
    import payload
    import phases
    import planning
    import torch_home
    from steps import Steps, say, write
except ModuleNotFoundError as error:
    sys.exit(f"error: {error.name}.py is missing\n\nhint: copy all files of the bundle into one folder")

# of the time that is left, when a phase begins and those behind it are still to come
SHARES = {"doctor": 1, "parity": 3, "bench": 8, "gpus": 4, "train": 20, "eval": 6, "report": 1}
# opening CUDA's libraries from a cold disk, for what a share of few minutes does not reach
LEAST_SECONDS = {"doctor": 60}
# bytes that the results need at least
ROOM = 50_000_000


def arguments():
    parser = argparse.ArgumentParser(
        prog="run.sh",
        description="Looks this machine over, measures it, trains a decoder in the minutes there are and evaluates it.",
        epilog="phases: doctor (what is here), parity (does it compute what the other machine did), bench (speed of training "
        "at 25 M to 1 B parameters, of encoding), gpus (training shared by 1, 2, 4, … of them), train (pairs, then a decoder whose size suits the minutes), eval, report. "
        "Without any, all of them. A second call with the same --out goes on.",
    )
    add = parser.add_argument
    add("phases", nargs="*", metavar="PHASE", help="some phases only")
    add("--minutes", type=float, default=15.0, metavar="N", help="for all of it [default: 15]")
    add("--out", type=Path, default=Path("results"), metavar="DIR", help="results [default: results]")
    text = "where it unpacks and trains: 2 GB, and 40 bytes a parameter of the decoder [default: beside this file]"
    add("--work", type=Path, metavar="DIR", help=text)
    text = "the largest run that is kept in the results while it can still go on [default: 4]"
    add("--keep-gb", type=float, default=4.0, metavar="GB", help=text)
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N [default: auto]")
    add("--train-minutes", type=float, metavar="N", help="of training, over all calls [default: what is left]")
    add("--size", metavar="NAME", help="of the decoder: 25m, 60m, 100m, 300m, 1b, or recipe [default: what suits]")
    text = "the largest decoder that sees so many is chosen [default: 1]"
    add("--tokens-per-parameter", type=float, default=1.0, metavar="X", help=text)
    add("--processes", type=int, metavar="N", help="GPUs to train on [default: all that are here]")
    add("--peers", type=Path, metavar="DIR", help="programs that do the same with PyTorch, to be timed beside ours")
    add("--peak-tflops", type=float, metavar="X", help="what MFU is measured against [default: the card's dense bf16]")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe (repeatable)")
    add("--again", action="store_true", help="also what is done")
    add("--tiny", action="store_true", help="shapes of seconds: to rehearse all of it on any machine")
    args = parser.parse_args()
    check(args)
    return args


def check(args):
    known = [*measuring.SIZES, "recipe"]
    if wrong := [phase for phase in args.phases if phase not in SHARES]:
        fail(f"there is no phase {wrong[0]}", f"the phases: {', '.join(SHARES)}")
    if not (args.minutes > 0 and math.isfinite(args.minutes)):
        fail(f"--minutes {args.minutes:g} is no time", "give some: --minutes 15")
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", args.device):
        fail(f"--device {args.device}", "auto, cpu, cuda or cuda:N")
    if args.processes is not None and args.processes < 1:
        fail(f"--processes {args.processes} is nobody", "one or more")
    if args.peers:
        args.peers = args.peers.resolve()
        if not args.peers.is_dir():
            fail(f"--peers {args.peers}: there is no such folder", "the folder with train_torch.py and encode_st.py")
    if args.size and args.size not in known:
        fail(f"--size {args.size}", f"one of {', '.join(known)}")


def fail(message, hint):
    print(f"error: {message}\n\nhint: {hint}", file=sys.stderr)
    sys.exit(1)


# what is read of a manifest
NEEDED = ("torch", "glibc", "recipe", "optimizer", "learning_rate", "hidden", "dim", "held_out", "corpora", "cuda", "parts", "files")


def prepare(args, here):
    """The unpacked bundle and the environment that its program runs in."""
    try:
        manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
        if lacks := [key for key in NEEDED if key not in manifest]:
            raise ValueError(f"it says nothing of {', '.join(lacks)}")
    except (OSError, ValueError, TypeError) as error:
        fail(f"manifest.json cannot be read: {error}", "copy all files of the bundle into one folder")
    needed, found = manifest["glibc"], torch_home.glibc()
    if needed and (found is None or found < tuple(int(part) for part in needed.split("."))):
        had = "another C library" if found is None else f"glibc {found[0]}.{found[1]}"
        fail(f"the program needs glibc {needed}, and here is {had}", "run it in a container of a newer system")
    torch, how, why = torch_home.find(manifest["torch"], os.environ)
    if torch is None:
        fail(why, f"pip install torch=={manifest['torch']}, or LIBTORCH=/path/to/torch bash run.sh")
    # a folder of its own: what lies there before is removed
    work = ((args.work or here) / "unpacked").resolve()
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        lock(work.parent, "--work")
        new = payload.unpack(here, manifest, work, shutil.disk_usage(work.parent).free)
    except (payload.Damaged, OSError, tarfile.TarError) as error:
        fail(str(error), "copy the bundle again, or give --work another place")
    say(f"torch {manifest['torch']} in {torch} ({how}); bundle {'unpacked to' if new else 'is in'} {work}")
    if (cuda := torch_home.cuda_of(torch)) and not cuda.startswith("13."):
        say(f"   this torch is for CUDA {cuda}: several GPUs, CUDA graphs and our kernels need one for CUDA 13")
    if not manifest["cuda"]:
        say("   this bundle was packed without the part for CUDA: one GPU, no CUDA graphs and no kernels of our own (make bundle)")
    environment = dict(os.environ)
    paths = [torch_home.libraries(torch), os.environ.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
    environment.setdefault("HF_HUB_OFFLINE", "1")
    # batches of many shapes would cut the memory to pieces
    if all(mapped for _, mapped in cards.devices()):
        environment.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # f32 that is none would fail the parity
    environment.pop("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", None)
    ask(work, environment, "--version", hint=f"its libraries are older than it needs, or {work} is damaged: remove it")
    if args.set:
        # a slip of the pen should not cost what comes before the training
        sets = [word for value in args.set for word in ("--set", value)]
        ask(work, environment, "config", "show", "--recipe", "recipe.toml", *sets, hint="correct --set")
    return manifest, work, environment


def ask(work, environment, *arguments, hint):
    """Ends with what the program says where it refuses."""
    try:
        said = subprocess.run([work / "inverse-stella", *arguments], cwd=work, env=environment, capture_output=True, text=True)
    except OSError as error:
        fail(f"the program does not start here: {error}", hint)
    if said.returncode != 0:
        text = said.stderr.strip().removeprefix("error: ") or f"it ended with {said.returncode}"
        # the program has hints of its own
        print(f"error: {text}" + ("" if "hint: " in text else f"\n\nhint: {hint}"), file=sys.stderr)
        sys.exit(1)


LOCKS = {}


def lock(folder, flag):
    """Nobody else works in this folder until this process ends."""
    if folder in LOCKS:
        return
    LOCKS[folder] = open(folder / ".lock", "w", encoding="utf-8")
    try:
        fcntl.flock(LOCKS[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"another run.sh is at work in {folder}", f"wait for it, or choose another folder with {flag}")


def run_phase(phase, args, manifest, work, environment, seconds):
    """The steps that went wrong; a fault of one phase does not cost the others."""
    say(f"== {phase}: {seconds:.0f} s")
    try:
        steps = Steps(phase, args, manifest, work, environment, seconds)
    except OSError as error:
        say(f"   it has no place for what it finds: {error}")
        return [phase]
    try:
        getattr(phases, phase)(steps, args, manifest)
    except KeyboardInterrupt:
        steps.note("phase", "was told to end", 0, [])
        raise
    except Exception as error:
        write(steps.folder / "fault.log", traceback.format_exc())
        steps.note("phase", f"failed: {error!r}", 0, [])
    finally:
        steps.finish()
        phases.summary(args.out, manifest)
    return steps.wrong()


def require_device(args, manifest):
    """A GPU that is there and of no use is an error before the minutes are gone; a machine without one computes itself."""
    if args.device == "cpu":
        return
    doctor = planning.measured(args, "doctor")
    checks = [check for step in doctor for check in step["found"].get("checks", [])]
    devices = next((check for check in checks if check["name"] == "CUDA devices"), None)
    count = (devices or {}).get("data", {}).get("count")
    if count and cards.number_of(args.device) >= count:
        fail(f"--device {args.device}: there are {count} GPUs here, the first is cuda:0", "another number, or --device auto")
    if devices is None or count:
        return
    other = cards.of_another_make()
    if not cards.has_hardware():
        what = f"a GPU of {other} is here, and this program needs one of NVIDIA's" if other else "there is no GPU here"
        if args.device == "auto":
            say(f"   {what}: the CPU computes")
            return
        fail(what, "--device cpu")
    library = next((check for check in checks if check["name"] == "libtorch_cuda"), {})
    said = "; ".join(check["found"] for check in (library, devices) if "found" in check)
    fix = f"pip install torch=={manifest['torch']} brings CUDA's libraries, and CUDA 13 needs a driver of 580 or newer"
    fail(f"there is a GPU that libtorch cannot use: {said}", f"{fix}; or --device cpu")


def heed_kernels(args, environment):
    """Kernels of ours that do not agree here, or that ended the asking, are left out of all that follows."""
    checks = [check for step in planning.measured(args, "doctor") for check in step["found"].get("checks", [])]
    part = next((check for check in checks if check["name"] == "CUDA part"), {})
    if cards.names() and args.device != "cpu" and part.get("data", {}).get("kernels") != "used":
        say(f"   our kernels for GPUs are left out: {part.get('found', 'the phase doctor says nothing of them')}")
        environment["INVERSE_STELLA_GPU_KERNELS"] = "off"


def interrupted(signal_number, frame):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, interrupted)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # nohup means what it says
        signal.signal(signal.SIGHUP, interrupted)
    args = arguments()
    started = time.monotonic()
    here = Path(__file__).resolve().parent
    args.out = args.out.resolve()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        lock(args.out, "--out")
        (args.out / ".room").write_bytes(b"x" * 4096)
        (args.out / ".room").unlink()
        if (free := shutil.disk_usage(args.out).free) < ROOM:
            raise OSError(f"{free / 1e6:.0f} MB are free, and the results need {ROOM / 1e6:.0f} at least")
    except OSError as error:
        fail(f"nothing can be written to {args.out}: {error}", "choose another folder with --out")
    manifest, work, environment = prepare(args, here)
    # what is here is asked in any case: a GPU that cannot be used must not be passed over
    wanted = [phase for phase in SHARES if not args.phases or phase in (*args.phases, "doctor")]
    end, wrong = started + 60 * args.minutes, []
    try:
        for number, phase in enumerate(wanted):
            left = max(end - time.monotonic(), 0)
            share = SHARES[phase] / sum(SHARES[other] for other in wanted[number:])
            seconds = max(left * share, min(LEAST_SECONDS.get(phase, 0), left / 2))
            wrong += run_phase(phase, args, manifest, work, environment, seconds)
            if phase == "doctor":
                require_device(args, manifest)
                heed_kernels(args, environment)
    except KeyboardInterrupt:
        print("told to end: what is done is kept, another call goes on", file=sys.stderr)
        sys.exit(130)
    say(f"{args.out / 'summary.md'}: " + (f"failed: {', '.join(wrong)}" if wrong else "all that ran went well"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
