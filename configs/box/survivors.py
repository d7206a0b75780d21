"""What must outlive the machine: a run that can go on, in files of at most 16 MB."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import steps

PIECE = 16_000_000
# bytes of a disk that are left free
ROOM = 100_000_000
HOW = "`python3 survivors.py export decoder` puts it together"


def trained(run):
    """Seconds that a run has trained."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    for line in reversed(lines):
        try:
            if (elapsed := json.loads(line).get("elapsed_s")) is not None:
                return float(elapsed)
        except ValueError:
            continue
    return 0.0


def keep(run, folder, most, kin):
    """Copies a run in pieces: its own files, the latest checkpoint, and the best one where all of it has `most` bytes at most.
    Says in words what was kept. What was kept before stays until there is something newer; a run that is not of this `kin` (of
    other texts, another bundle, a rehearsal) is set aside."""
    pointer = run / "checkpoints" / "latest"
    if not pointer.is_file():
        return "nothing, since there is no checkpoint"
    try:
        shutil.rmtree(folder.with_name(folder.name + ".new"), ignore_errors=True)
        checkpoint = run / "checkpoints" / pointer.read_text().strip()
        files = [path for path in run.iterdir() if path.is_file() and path.name != "run.lock"]
        # and guesses of the decoder that the training goes on with
        for part in (checkpoint, run / "hypotheses"):
            files += [path for path in part.rglob("*") if path.is_file()]
        pointers = [path for path in (run / "checkpoints").iterdir() if path.is_file() and path.name != "best"]
        of_best = {run / "checkpoints" / "best"} if best(run) == checkpoint else set()
        if best(run) and not of_best:
            of_best = {run / "checkpoints" / "best", *(path for path in best(run).rglob("*") if path.is_file())}
        small, size = bytes_of([*files, *pointers]), bytes_of([*files, *pointers, *of_best])
        most = min(most, shutil.disk_usage(folder.parent).free - ROOM)
        if small > most:
            return f"which holds no newer state: a checkpoint has {small / 1e6:.0f} MB, and {most / 1e6:.0f} MB there are for it (--keep-gb)"
        is_whole = size <= most
        set_aside(folder, kin)
        pack(run, [*files, *pointers, *(of_best if is_whole else [])], folder, kin)
    except OSError as error:
        # the training may have removed what was just looked at
        return f"nothing newer: {error}"
    left_out = "" if is_whole else ", without the best checkpoint"
    return f"the run as of {checkpoint.name}, {(size if is_whole else small) / 1e6:.0f} MB{left_out}"


def best(run):
    """The checkpoint of the lowest dev loss, None where none is named."""
    try:
        return run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip()
    except OSError:
        return None


def bytes_of(files):
    return sum(path.stat().st_size for path in files)


def kin_of(folder):
    try:
        return json.loads((folder / "kin.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def set_aside(folder, kin):
    """What is there and of another kin is renamed, so that it is not lost."""
    if folder.is_dir() and (other := kin_of(folder)) != kin:
        aside = folder.with_name(folder.name + steps.digest_of(other))
        shutil.rmtree(aside, ignore_errors=True)
        folder.replace(aside)


def pack(base, files, folder, kin):
    """Copies files below `base` to a folder, in pieces, with an index; what was in the folder goes."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        in_pieces(base, files, new)
        (new / "kin.json").write_text(json.dumps(kin), encoding="utf-8")
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    # one of the two is there at any time
    shutil.rmtree(old, ignore_errors=True)
    if folder.is_dir():
        folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def in_pieces(base, files, new):
    index = {}
    for number, path in enumerate(sorted(files)):
        digest, pieces = hashlib.sha256(), []
        with open(path, "rb") as source:
            while piece := source.read(PIECE):
                digest.update(piece)
                pieces.append(f"{number:03}-{len(pieces):03}")
                (new / pieces[-1]).write_bytes(piece)
        index[str(path.relative_to(base))] = dict(pieces=pieces, sha256=digest.hexdigest())
    (new / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def restore(folder, run, kin):
    """Puts a kept run back where none is; what is damaged is left alone, and said."""
    old = folder.with_name(folder.name + ".old")
    if old.is_dir() and not folder.is_dir():
        # a copy was cut off between two names
        old.replace(folder)
    if (run / "checkpoints" / "latest").is_file() or not (folder / "index.json").is_file():
        return
    if kin_of(folder) != kin:
        steps.say(f"   the run kept in {folder} is of other texts, another bundle or a rehearsal: it is left alone")
        return
    damaged = unpack(folder, run)
    steps.say(f"   {damaged}: training begins anew" if damaged else f"   going on with the run kept in {folder}")


def unpack(folder, target):
    """Puts together what `pack` took apart. Says what is damaged, in which case nothing is written."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{folder} cannot be read ({error})"
    new = target.with_name(target.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    for name, kept in index.items():
        digest, path = hashlib.sha256(), new / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for piece in kept["pieces"]:
                try:
                    content = (folder / piece).read_bytes()
                except OSError:
                    content = b""
                digest.update(content)
                file.write(content)
        if digest.hexdigest() != kept["sha256"]:
            shutil.rmtree(new)
            return f"{folder} is damaged ({name})"
    shutil.rmtree(target, ignore_errors=True)
    new.replace(target)
    return None


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: survivors.py PIECES TARGET")
    sys.exit(unpack(Path(sys.argv[1]), Path(sys.argv[2])))
