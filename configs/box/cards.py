"""The GPUs of this machine, asked of NVIDIA's driver."""

import ctypes
import functools
import glob
from pathlib import Path

# cuda.h: CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
VIRTUAL_MEMORY = 102


@functools.cache
def devices():
    """(name, whether its memory can be mapped in pieces) of the GPUs that a process here may use, by the driver, which
    heeds CUDA_VISIBLE_DEVICES."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        count, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return []
        found = []
        for number in range(count.value):
            device, mapped = ctypes.c_int(), ctypes.c_int()
            good = cuda.cuDeviceGet(ctypes.byref(device), number) == 0 and cuda.cuDeviceGetName(name, 256, device) == 0
            cuda.cuDeviceGetAttribute(ctypes.byref(mapped), VIRTUAL_MEMORY, device)
            found.append((name.value.decode(errors="replace") if good else "?", mapped.value == 1))
        return found
    except (OSError, AttributeError):
        return []


def names():
    return [name for name, _ in devices()]


def number_of(device):
    """Which GPU `auto`, `cuda` or `cuda:N` means to a single process."""
    _, _, number = device.partition("cuda:")
    return int(number) if number else 0


def card(device):
    """The name of that GPU, "" without one."""
    here = names()
    return here[number_of(device)] if device != "cpu" and number_of(device) < len(here) else ""


def has_hardware():
    """Whether there is a GPU of NVIDIA's, whether or not it can be used."""
    return bool(glob.glob("/proc/driver/nvidia/gpus/*") or glob.glob("/dev/nvidia[0-9]*"))


def of_another_make():
    """The maker of a GPU that is here and that this program cannot use; None without one."""
    # AMD's driver
    return "AMD" if Path("/dev/kfd").exists() else None


def machine():
    """What was measured here holds on machines that this says the same of."""
    if here := names():
        return ", ".join(here)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else "a CPU"
