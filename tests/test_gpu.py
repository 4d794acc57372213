"""Asking the NVIDIA driver: a stand-in, since most machines have none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgecnn.gpu import Gpu, read_gpu

DRIVER = """
#include <string.h>
#include <stddef.h>
#ifndef COUNT
#define COUNT 1
#endif
int cuInit(unsigned flags) { return COUNT ? 0 : 100; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index < COUNT ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Orin", size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 7990000000; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? 1 : -1;
    return 0;
}
"""


def driver(folder: Path, *, count: int) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = folder / "driver.c", folder / "libdriver.so"
    source.write_text(DRIVER)
    command = [compiler, "-shared", "-fPIC", f"-DCOUNT={count}", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return str(library)


def test_a_jetson(tmp_path: Path) -> None:
    library = driver(tmp_path, count=1)
    assert read_gpu(library=library) == Gpu(
        name="Orin", compute_capability="8.7", cuda="12.6", memory_bytes=7_990_000_000, integrated=True
    )
    assert read_gpu(1, library=library) is None


def test_a_driver_without_a_gpu(tmp_path: Path) -> None:
    assert read_gpu(library=driver(tmp_path, count=0)) is None


@pytest.mark.parametrize("library", ["libcuda-that-is-not-there.so.1", "libc.so.6"])
def test_no_driver(library: str) -> None:
    assert read_gpu(library=library) is None
