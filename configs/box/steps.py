"""The steps of a phase: commands with an end in time, and what became of them."""

import ctypes
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cards

# a training saves what it has when it is told to end
GRACE = float(os.environ.get("RUN_GRACE_SECONDS", "45"))
# seconds between two looks at what a training has left behind
MEANWHILE = float(os.environ.get("RUN_KEEP_SECONDS", "300"))
# tables of a recipe that pairs are made by
OF_PAIRS = ("corpus.", "curation.", "split.", "pairs.", "encoder.")


class Steps:
    """Runs a phase's steps and keeps what they print in OUT/PHASE/."""

    def __init__(self, phase, args, manifest, work, environment, seconds):
        self.phase, self.args, self.work, self.environment, self.seconds = phase, args, work, environment, seconds
        self.out, self.folder, self.end = args.out, args.out / phase, time.monotonic() + seconds
        self.file = self.out / f"{phase}.json"
        # a rehearsal, other texts, and a run of other results have folders of their own
        home = "work/tiny" if args.tiny else "work"
        of_pairs = [value for value in args.set if value.startswith(OF_PAIRS)]
        self.pairs = f"{home}/pairs{digest_of(of_pairs) if of_pairs else ''}"
        self.run_folder = f"{home}/run{digest_of([str(args.out), of_pairs])}"
        self.export = f"{self.run_folder}-export"
        self.vectors = f"{self.run_folder}-vectors.npy"
        # what was done otherwise, or on another kind of machine, does not count
        made = dict(bundle=[part["sha256"] for part in manifest["parts"]], tiny=args.tiny, device=args.device)
        self.made = args.made = made | dict(machine=cards.machine())
        # a run goes on on any machine
        self.kin = dict(bundle=made["bundle"], tiny=args.tiny, texts=of_pairs)
        self.done = self.earlier()
        if not self.done and self.folder.is_dir():
            # figures of another machine, or of a rehearsal
            shutil.rmtree(self.folder)
        self.noted, self.lines = set(), []
        self.folder.mkdir(exist_ok=True)

    def earlier(self):
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            steps = {step["step"]: step for step in found["steps"]} if found["made"] == self.made else {}
            # how an earlier call ended says nothing of this one
            return {name: step for name, step in steps.items() if name != "phase"}
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

    def run(self, step, *command, share=1.0, limit=None, again=False, stops=False, program=None, environment=None, meanwhile=None):
        """Runs a step of the bundle's program, or of another, with `share` of the phase's time that is left, or up to
        `limit` seconds; True where it went well. `stops` is for what saves and leaves with 0 when it is told to end,
        `meanwhile` is called every few minutes."""
        if self.ok(step) and not (again or self.args.again):
            return True
        limit = self.left * share if limit is None else min(limit, self.left)
        command = [*map(str, program or [self.work / "inverse-stella"]), *map(str, command)]
        if limit < 1:
            (self.folder / f"{step}.out").unlink(missing_ok=True)
            self.note(step, "no time was left", 0, command)
            return False
        begun = time.monotonic()
        environment = self.environment | (self.one_device() if program else {}) | (environment or {})
        try:
            with open(self.folder / f"{step}.out.new", "wb") as out, open(self.folder / f"{step}.log", "wb") as log:
                process = subprocess.Popen(
                    command,
                    cwd=self.work,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                    # ctrl-c is ours: it would be the first of two signals there, and the second ends without saving
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                )
                outcome = self.wait(process, limit, stops, meanwhile)
            (self.folder / f"{step}.out.new").replace(self.folder / f"{step}.out")
        except OSError as error:
            self.note(step, f"failed: {error}", time.monotonic() - begun, command)
            return False
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

    def wait(self, process, limit, stops, meanwhile):
        # what is told to end has some of its time for that
        grace = min(GRACE if stops else 5, limit / 3)
        end = time.monotonic() + limit - grace
        try:
            while (left := end - time.monotonic()) > 0:
                try:
                    code = process.wait(min(left, MEANWHILE) if meanwhile else left)
                    return "ok" if code == 0 else f"failed ({code})"
                except subprocess.TimeoutExpired:
                    if meanwhile and end - time.monotonic() > 2 * meanwhile.took:
                        meanwhile()
            process.send_signal(signal.SIGTERM)
            code = self.ended(process, grace)
        except BaseException:
            # a hangup comes twice, and a large decoder takes minutes to write: only another ctrl-c ends that
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            process.send_signal(signal.SIGTERM)
            self.ended(process, 4 * GRACE)
            raise
        finally:
            # a rank that hangs would keep its GPU's memory
            kill_session(process.pid)
        return "ok" if stops and code == 0 else "out of time"

    @staticmethod
    def ended(process, seconds):
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_session(process.pid)
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            # in a call of the driver that does not return
            return None

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
        self.noted.add(step)
        say(f"   {step:<26} {outcome} ({seconds:.0f} s)")
        self.write()

    def write(self):
        """After every step: a call that is cut off leaves what it has."""
        steps = [dict(step, found=self.found(step["step"])) for step in self.done.values()]
        write(self.file, json.dumps(dict(phase=self.phase, made=self.made, steps=steps), indent=1) + "\n")

    def tell(self, *lines):
        """Lines of PHASE.md."""
        self.lines += lines

    def finish(self):
        self.write()
        steps = ["", "| step | outcome | seconds |", "|---|---|---|"]
        steps += [f"| {step['step']} | {step['outcome']} | {step['seconds']} |" for step in self.done.values()]
        commands = ["", *(f"- {step['step']}: `{step['command']}`" for step in self.done.values() if step["command"])]
        text = "\n".join([f"## {self.phase}", "", *self.lines, *steps, *commands]) + "\n"
        write(self.out / f"{self.phase}.md", text)

    def wrong(self):
        """The steps of this call that neither went well nor were skipped."""
        steps = [step for name, step in self.done.items() if name in self.noted]
        return [s["step"] for s in steps if s["outcome"] != "ok" and not s["outcome"].startswith("skipped")]


def write(path, text):
    """Writes a file, or leaves the one that is there; a disk that is full costs the results and not the rest of the work."""
    new = path.with_name(path.name + ".new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        say(f"   {path} cannot be written: {error}")


def end_with_parent():
    """What was started is told to end when we are killed, however that happens."""
    # linux/prctl.h: PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def kill_session(session):
    """Ends what is left of the processes that a step has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # behind the name, which may hold anything: state, parent, group, session
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, ValueError, IndexError):
            continue


def digest_of(value):
    """A few letters that stand for a value, in names of folders."""
    return "-" + hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def say(line):
    """On stdout; nobody's hanging up there stops the work."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


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
