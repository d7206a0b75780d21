"""Runs the phases of a bundle on this machine. `bash run.sh --help`.

Standard library alone. Each phase ends in time and leaves PHASE.json and PHASE.md in the folder of the results, with what
its steps printed in PHASE/; a step that fails does not stop the next; a second call passes over what is done.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from pathlib import Path

import measuring
import payload
import phases
import planning
import torch_home
from steps import Steps, has_hardware, say

# of the time that is left, when a phase begins and those behind it are still to come
SHARES = {"doctor": 1, "parity": 3, "bench": 8, "gpus": 4, "train": 20, "eval": 6, "report": 1}


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
    add("--work", type=Path, metavar="DIR", help="where it unpacks, 2 GB or so [default: beside this file]")
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
    if args.minutes <= 0:
        fail(f"--minutes {args.minutes:g} is no time", "give some: --minutes 15")
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


def prepare(args, here):
    """The unpacked bundle and the environment that its program runs in."""
    try:
        manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"manifest.json cannot be read: {error}", "copy all files of the bundle into one folder")
    needed, found = manifest.get("glibc"), torch_home.glibc()
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
        new = payload.unpack(here, manifest, work, shutil.disk_usage(work.parent).free)
    except (payload.Damaged, OSError, tarfile.TarError) as error:
        fail(str(error), "copy the bundle again, or give --work another place")
    if (cuda := torch_home.cuda_of(torch)) and not cuda.startswith("13."):
        say(f"   it is for CUDA {cuda}: several GPUs and CUDA graphs need one for CUDA 13")
    say(f"torch {manifest['torch']} in {torch} ({how}); bundle {'unpacked to' if new else 'is in'} {work}")
    environment = dict(os.environ)
    paths = [torch_home.libraries(torch), os.environ.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
    environment.setdefault("HF_HUB_OFFLINE", "1")
    # batches of many shapes would cut the memory to pieces
    environment.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # f32 that is none would fail the parity
    environment.pop("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", None)
    start = subprocess.run([work / "inverse-stella", "--version"], env=environment, capture_output=True, text=True)
    if start.returncode != 0:
        fail(f"the program does not start here: {start.stderr.strip()}", "its libraries are older than it needs")
    return manifest, work, environment


def run_phase(phase, steps, args, manifest):
    try:
        getattr(phases, phase)(steps, args, manifest)
    except KeyboardInterrupt:
        steps.note("phase", "was told to end", 0, [])
        raise
    except Exception as error:
        # a fault of one phase must not cost the others
        (steps.folder / "fault.log").write_text(traceback.format_exc(), encoding="utf-8")
        steps.note("phase", f"failed: {error!r}", 0, [])
    finally:
        steps.finish()
        phases.summary(args.out, manifest)


def require_device(args):
    """A GPU that is there and of no use is an error before the minutes are gone; a machine without one computes itself."""
    if args.device == "cpu":
        return
    doctor = planning.measured(args, "doctor")
    checks = [check for step in doctor for check in step["found"].get("checks", [])]
    devices = next((check for check in checks if check["name"] == "CUDA devices"), None)
    if devices is None or devices.get("data", {}).get("count"):
        return
    if args.device == "auto" and not has_hardware():
        say("   no GPU here: the CPU computes")
        return
    library = next((check for check in checks if check["name"] == "libtorch_cuda"), {})
    said = "; ".join(check["found"] for check in (library, devices) if "found" in check)
    fix = devices.get("fix") or library.get("fix") or "look at the driver"
    fail(f"there is a GPU that libtorch cannot use: {said}", f"{fix}; or --device cpu")


def interrupted(signal_number, frame):
    raise KeyboardInterrupt


def main():
    if sys.version_info < (3, 10):
        fail(f"this is Python {sys.version.split()[0]}", "3.10 is the oldest that will do: PYTHON=python3.12 bash run.sh")
    signal.signal(signal.SIGTERM, interrupted)
    args = arguments()
    started = time.monotonic()
    here = Path(__file__).resolve().parent
    args.out = args.out.resolve()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / ".room").write_bytes(b"x" * 4096)
        (args.out / ".room").unlink()
    except OSError as error:
        fail(f"nothing can be written to {args.out}: {error}", "choose another folder with --out")
    manifest, work, environment = prepare(args, here)
    wanted = [phase for phase in SHARES if not args.phases or phase in args.phases]
    end = started + 60 * args.minutes
    try:
        for number, phase in enumerate(wanted):
            left = end - time.monotonic()
            share = SHARES[phase] / sum(SHARES[other] for other in wanted[number:])
            steps = Steps(phase, args, manifest, work, environment, seconds=max(left, 0) * share)
            say(f"== {phase}: {steps.seconds:.0f} s")
            run_phase(phase, steps, args, manifest)
            if phase == "doctor":
                require_device(args)
    except KeyboardInterrupt:
        print("told to end: what is done is kept, another call goes on", file=sys.stderr)
        sys.exit(130)
    wrong = Steps.wrong(args.out)
    say(f"{args.out / 'summary.md'}: " + (f"failed: {', '.join(wrong)}" if wrong else "all that ran went well"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
