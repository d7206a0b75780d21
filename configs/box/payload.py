"""The parts of a bundle: checked by their digests, joined, unpacked."""

import hashlib
import io
import json
import shutil
import tarfile


class Damaged(Exception):
    """A bundle that cannot be used, in words."""


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class Joined(io.RawIOBase):
    """Files one behind the other, as one."""

    def __init__(self, paths):
        self.paths = list(paths)
        self.file = None

    def readable(self):
        return True

    def readinto(self, buffer):
        while True:
            if self.file is None:
                if not self.paths:
                    return 0
                self.file = open(self.paths.pop(0), "rb")
            if count := self.file.readinto(buffer):
                return count
            self.file.close()
            self.file = None


def check_parts(folder, manifest):
    """Raises Damaged with every part that is missing or is not what was packed."""
    faults = []
    for part in manifest["parts"]:
        path = folder / part["name"]
        if not path.is_file():
            faults.append(f"{part['name']} is missing")
        elif path.stat().st_size != part["bytes"]:
            faults.append(f"{part['name']} has {path.stat().st_size} bytes instead of {part['bytes']}")
        elif sha256(path) != part["sha256"]:
            faults.append(f"{part['name']} is damaged (its digest differs)")
    if faults:
        raise Damaged("; ".join(faults) + f". All {len(manifest['parts'])} parts must lie in {folder}: copy them again")


def is_there(target, file):
    path = target / file["name"]
    return path.is_file() and path.stat().st_size == file["bytes"]


def unpack(folder, manifest, target, room):
    """Unpacks into `target`, unless that has been done; `room` are the bytes that are free there."""
    stamp = target / ".unpacked"
    mark = hashlib.sha256(json.dumps(manifest["files"]).encode()).hexdigest()
    same = stamp.is_file() and stamp.read_text() == mark
    if same and all(is_there(target, file) for file in manifest["files"]):
        return False
    check_parts(folder, manifest)
    needed = sum(file["bytes"] for file in manifest["files"])
    if room < needed:
        raise Damaged(f"{target.parent} has {room / 1e6:.0f} MB free, and {needed / 1e6:.0f} MB are unpacked: choose --work")
    if not same:
        # what another bundle made is of no use to this one; what this one made stays
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    parts = io.BufferedReader(Joined(folder / part["name"] for part in manifest["parts"]), 1 << 20)
    with tarfile.open(fileobj=parts, mode="r|xz") as archive:
        for member in archive:
            if not member.isfile() or member.name.startswith("/") or ".." in member.name.split("/"):
                raise Damaged(f"{member.name} is no plain file of a bundle")
            path = target / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.extractfile(member) as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy)
            path.chmod(member.mode)
    wrong = [file["name"] for file in manifest["files"] if sha256(target / file["name"]) != file["sha256"]]
    if wrong:
        raise Damaged(f"{', '.join(wrong)} came out otherwise than packed: is the disk in order?")
    stamp.write_text(mark)
    return True
