"""Which NVIDIA GPU this machine has, asked of its driver; no CUDA toolkit, no context, no memory taken.

`libcuda.so.1` comes with the driver (on a Jetson with L4T). Without it, or without a GPU, the answer is None.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

__all__ = ["Gpu", "read_gpu"]

_NAME_BYTES = 256
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18  # CUdevice_attribute


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU.

    Attributes:
        name: the driver's, such as `Orin`.
        compute_capability: such as `8.7`.
        cuda: the newest CUDA version that the driver serves, such as `12.6`.
        memory_bytes: all of it; shared with the CPU where `integrated`.
    """

    name: str
    compute_capability: str
    cuda: str
    memory_bytes: int
    integrated: bool


def read_gpu(index: int = 0, *, library: str = "libcuda.so.1") -> Gpu | None:
    """The GPU with this index among those that CUDA_VISIBLE_DEVICES leaves, or None."""
    try:
        cuda = ctypes.CDLL(library)
        name = ctypes.create_string_buffer(_NAME_BYTES)
        device, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
        if (
            cuda.cuInit(0)
            or cuda.cuDriverGetVersion(ctypes.byref(version))
            or cuda.cuDeviceGet(ctypes.byref(device), index)
            or cuda.cuDeviceGetName(name, _NAME_BYTES, device)
            or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        ):
            return None
        attributes = []
        for attribute in (_MAJOR, _MINOR, _INTEGRATED):
            value = ctypes.c_int()
            if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
                return None
            attributes.append(value.value)
    except (OSError, AttributeError):  # no driver; or a library of that name that is none
        return None
    major, minor, integrated = attributes
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
        memory_bytes=memory.value,
        integrated=bool(integrated),
    )
