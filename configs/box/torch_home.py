"""Where a torch lies that the program of a bundle can run on."""

import glob
import importlib.util
import os
import re
from pathlib import Path

USUAL = [
    "/usr/local/lib/python3*/dist-packages/torch",
    "/usr/local/lib/python3*/site-packages/torch",
    "/usr/lib/python3*/dist-packages/torch",
    "/opt/*/lib/python3*/site-packages/torch",
    "/opt/*/*/lib/python3*/site-packages/torch",
    "/opt/*/envs/*/lib/python3*/site-packages/torch",
    "/usr/lib64/python3*/site-packages/torch",
    "/usr/local/lib64/python3*/site-packages/torch",
    "/usr/local/libtorch",
    "/opt/libtorch",
]


def candidates(environment):
    """(how it was found, folder), the best first."""
    if environment.get("LIBTORCH"):
        yield "LIBTORCH", Path(environment["LIBTORCH"])
        return
    try:
        found = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        found = None
    if found and found.submodule_search_locations:
        yield "this Python", Path(list(found.submodule_search_locations)[0])
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if environment.get(name):
            for path in sorted(glob.glob(f"{environment[name]}/lib/python3*/site-packages/torch")):
                yield name, Path(path)
    for pattern in USUAL:
        for path in sorted(glob.glob(pattern)):
            yield "a usual place", Path(path)


def version_of(folder):
    """`2.11.0`, or None where the folder does not say."""
    for name, pattern in (
        ("version.py", r"__version__ = ['\"]([0-9.]+(?:(?:a|b|rc|dev)[0-9]*)?)"),
        ("build-version", r"([0-9.]+(?:(?:a|b|rc|dev)[0-9]*)?)"),
        ("include/torch/headeronly/version.h", r"TORCH_VERSION\s+\"?([0-9.]+)"),
    ):
        try:
            if found := re.search(pattern, (folder / name).read_text(encoding="utf-8", errors="replace")):
                # 2.11.0a0 and 2.11.0rc1 are no 2.11.0
                return found[1].rstrip(".")
        except OSError:
            pass
    return None


def cuda_of(folder):
    """The version of CUDA that a torch is for, None where it does not say."""
    try:
        found = re.search(r"cuda.*= ['\"]([0-9.]+)", (folder / "version.py").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found and found[1]


def find(wanted, environment):
    """(folder, how it was found, None), or (None, None, why none of those that are there will do)."""
    wrong = []
    for how, folder in candidates(environment):
        version = version_of(folder)
        if not (folder / "lib" / "libtorch_cpu.so").is_file():
            wrong.append(f"{folder} ({how}) holds no lib/libtorch_cpu.so")
        elif version != wanted:
            wrong.append(f"{folder} ({how}) is torch {version or 'of a version that it does not tell'}")
        else:
            return folder, how, None
    where = "; ".join(dict.fromkeys(wrong)) or "none was found in this Python, in VIRTUAL_ENV, CONDA_PREFIX or the usual places"
    return None, None, f"torch {wanted} is needed: {where}"


def libraries(folder):
    """Folders for LD_LIBRARY_PATH: torch's own, and those of the CUDA wheels beside it."""
    beside = sorted(glob.glob(str(folder.resolve().parent / "nvidia" / "*" / "lib")))
    return os.pathsep.join([str(folder / "lib"), *beside])


def glibc():
    """`(2, 36)`, or None where this is another C library."""
    try:
        name, _, version = os.confstr("CS_GNU_LIBC_VERSION").partition(" ")
    except (AttributeError, OSError, ValueError):
        return None
    return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else None
