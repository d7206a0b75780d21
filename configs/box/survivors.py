"""What must outlive the machine: a run that can go on, in files of at most 16 MB."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import steps

PIECE = 16_000_000
# larger checkpoints are not kept: they would take longer to carry than to train again
MOST = 2_000_000_000
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


def keep(run, folder):
    """Copies a run in pieces: its own files and the latest checkpoint. Says in words what was kept."""
    pointer = run / "checkpoints" / "latest"
    if not pointer.is_file():
        return "nothing, since there is no checkpoint"
    checkpoint = run / "checkpoints" / pointer.read_text().strip()
    files = [path for path in run.iterdir() if path.is_file() and path.name != "run.lock"]
    # what `best` points to, and guesses of the decoder that the training goes on with
    for folder_of_run in {checkpoint, *best(run), run / "hypotheses"}:
        files += [path for path in folder_of_run.rglob("*") if path.is_file()]
    files += [path for path in (run / "checkpoints").iterdir() if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    if size > MOST:
        shutil.rmtree(folder, ignore_errors=True)
        return f"which holds nothing: the checkpoint has {size / 1e6:.0f} MB"
    pack(run, files, folder)
    return f"the run as of {checkpoint.name}, {size / 1e6:.0f} MB"


def best(run):
    """The checkpoint of the lowest dev loss, where one is named."""
    try:
        yield run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip()
    except OSError:
        return


def pack(base, files, folder):
    """Copies files below `base` to a folder, in pieces, with an index; what was in the folder goes."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
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
    shutil.rmtree(folder, ignore_errors=True)
    new.replace(folder)


def restore(folder, run):
    """Puts a kept run back where none is; what is damaged is left alone, and said."""
    if (run / "checkpoints" / "latest").is_file() or not (folder / "index.json").is_file():
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
