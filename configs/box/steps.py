"""The steps of a phase: commands with an end in time, and what became of them."""

import ctypes
import functools
import glob
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time

# a training saves what it has when it is told to end
GRACE = float(os.environ.get("RUN_GRACE_SECONDS", "45"))


class Steps:
    """Runs a phase's steps and keeps what they print in OUT/PHASE/."""

    def __init__(self, phase, args, manifest, work, environment, seconds):
        self.phase, self.args, self.work, self.environment, self.seconds = phase, args, work, environment, seconds
        self.out, self.folder, self.end = args.out, args.out / phase, time.monotonic() + seconds
        self.folder.mkdir(exist_ok=True)
        self.file = self.out / f"{phase}.json"
        # what was done otherwise, or somewhere else, does not count
        made = dict(bundle=[part["sha256"] for part in manifest["parts"]], tiny=args.tiny, device=args.device)
        self.made = args.made = made | dict(machine=f"{platform.node()} {card()}")
        self.done = self.earlier()
        self.lines = []

    def earlier(self):
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            return {step["step"]: step for step in found["steps"]} if found["made"] == self.made else {}
        except (OSError, ValueError, KeyError):
            return {}

    @property
    def left(self):
        return self.end - time.monotonic()

    def found(self, step):
        """The last JSON object that a step printed; {} where there is none."""
        return last_json(self.folder / f"{step}.out")

    def ok(self, step):
        return self.done.get(step, {}).get("outcome") == "ok"

    def run(self, step, *command, share=1.0, limit=None, again=False, stops=False, program=None, environment=None):
        """Runs a step of the bundle's program, or of another, with `share` of the phase's time that is left, or up to
        `limit` seconds; True where it went well. `stops` is for what saves and leaves with 0 when it is told to end."""
        if self.ok(step) and not (again or self.args.again):
            return True
        limit = self.left * share if limit is None else min(limit, self.left)
        command = [*map(str, program or [self.work / "inverse-stella"]), *map(str, command)]
        if limit < 1:
            self.note(step, "no time was left", 0, command)
            return False
        begun = time.monotonic()
        with open(self.folder / f"{step}.out.new", "wb") as out, open(self.folder / f"{step}.log", "wb") as log:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=self.work,
                    env=self.environment | (self.one_device() if program else {}) | (environment or {}),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                )
            except OSError as error:
                self.note(step, f"failed: {error}", 0, command)
                return False
            outcome = self.wait(process, limit, stops)
        (self.folder / f"{step}.out.new").replace(self.folder / f"{step}.out")
        if outcome.startswith("failed"):
            outcome = f"{outcome}: {self.said(step)}"
        self.note(step, outcome, time.monotonic() - begun, command)
        return outcome == "ok"

    def one_device(self):
        """What leads another program, which takes the first GPU it sees, to the device of ours."""
        if self.args.device == "cpu":
            return {"CUDA_VISIBLE_DEVICES": ""}
        _, _, number = self.args.device.partition("cuda:")
        if not number:
            return {}
        seen = [name for name in self.environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        return {"CUDA_VISIBLE_DEVICES": seen[int(number)] if int(number) < len(seen) else number}

    def wait(self, process, limit, stops):
        # what is told to end has some of its time for that
        grace = min(GRACE if stops else 5, limit / 3)
        try:
            code = process.wait(limit - grace)
            return "ok" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            self.ended(process, GRACE)
            raise
        code = self.ended(process, grace)
        return "ok" if stops and code == 0 else "out of time"

    @staticmethod
    def ended(process, seconds):
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def said(self, step):
        """The error that a step ended with."""
        try:
            lines = (self.folder / f"{step}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "?"
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")[:300]

    def skip(self, step, why):
        if step not in self.done:
            self.note(step, f"skipped: {why}", 0, [])

    def note(self, step, outcome, seconds, command):
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = dict(step=step, outcome=outcome, seconds=round(seconds, 1), date=date, command=shlex.join(command))
        self.done[step] = entry
        say(f"   {step:<26} {outcome} ({seconds:.0f} s)")
        self.write()

    def write(self):
        """After every step: a call that is cut off leaves what it has."""
        steps = [dict(step, found=self.found(step["step"])) for step in self.done.values()]
        text = json.dumps(dict(phase=self.phase, made=self.made, steps=steps), indent=1) + "\n"
        self.file.with_suffix(".new").write_text(text, encoding="utf-8")
        self.file.with_suffix(".new").replace(self.file)

    def tell(self, *lines):
        """Lines of PHASE.md."""
        self.lines += lines

    def finish(self):
        self.write()
        steps = ["", "| step | outcome | seconds |", "|---|---|---|"]
        steps += [f"| {step['step']} | {step['outcome']} | {step['seconds']} |" for step in self.done.values()]
        commands = ["", *(f"- {step['step']}: `{step['command']}`" for step in self.done.values() if step["command"])]
        text = "\n".join([f"## {self.phase}", "", *self.lines, *steps, *commands]) + "\n"
        (self.out / f"{self.phase}.md").write_text(text, encoding="utf-8")

    @staticmethod
    def wrong(out):
        """The steps of all phases that neither went well nor were skipped."""
        wrong = []
        for file in sorted(out.glob("*.json")):
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
                steps = found["steps"] if "phase" in found else []
            except (ValueError, KeyError, TypeError):
                continue
            wrong += [s["step"] for s in steps if s["outcome"] != "ok" and not s["outcome"].startswith("skipped")]
        return wrong


def say(line):
    """On stdout; nobody's hanging up there stops the work."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


@functools.cache
def gpus():
    """Names of the GPUs that a process here may use, by the driver (CUDA_VISIBLE_DEVICES is its to heed)."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        count, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return []
        names = []
        for number in range(count.value):
            device = ctypes.c_int()
            good = cuda.cuDeviceGet(ctypes.byref(device), number) == 0 and cuda.cuDeviceGetName(name, 256, device) == 0
            names.append(name.value.decode(errors="replace") if good else "?")
        return names
    except (OSError, AttributeError):
        return []


def has_hardware():
    """Whether there is a GPU of NVIDIA's, whether or not it can be used."""
    return bool(glob.glob("/proc/driver/nvidia/gpus/*") or glob.glob("/dev/nvidia[0-9]*"))


def card():
    """The first GPU's name, "" without one."""
    return next(iter(gpus()), "")


def last_json(path):
    """The last line of a file that is a JSON object; {} where there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return {}
