"""Makes the emulation: compiles PyCUDA against the toolkit's headers, and the driver that it runs on.

    python -m tests.emulation.build FOLDER     prints the environment in which PyCUDA runs on the emulation

Takes about a minute the first time, mostly for PyCUDA; then FOLDER holds everything.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

__all__ = ["EmulationUnavailableError", "make_emulation"]

PYCUDA = "2026.1"
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class EmulationUnavailableError(Exception):
    """What is missing here to build it."""


def make_emulation(folder: Path) -> dict[str, str]:
    """The variables to add to the environment of a process that is to find PyCUDA and a GPU.

    Raises:
        EmulationUnavailableError: no toolkit, no compiler, or PyCUDA's source cannot be had.
    """
    toolkit = Path(os.environ.get("CUDA_ROOT") or os.environ.get("CUDA_HOME") or "/usr/local/cuda")
    if not (toolkit / "include/cuda.h").is_file():
        raise EmulationUnavailableError(
            f"no CUDA toolkit: {toolkit}/include/cuda.h is missing (set CUDA_ROOT)"
        )
    for tool in ("gcc", "g++", "nm"):
        if shutil.which(tool) is None:
            raise EmulationUnavailableError(f"no {tool}, which compiles PyCUDA and the emulated driver")
    tag = f"{sysconfig.get_config_var('SOABI')}-{toolkit.resolve().name}"
    site = folder / f"pycuda-{PYCUDA}-{tag}"
    if not site.is_dir():
        _build_pycuda(folder, toolkit, site)
    source = hashlib.sha256((HERE / "libcuda.c").read_bytes()).hexdigest()[:16]
    driver = folder / f"driver-{source}-{site.name}"
    if not driver.is_dir():
        _build_driver(folder, toolkit, driver, site)
    path = os.pathsep.join(map(str, (ROOT, HERE / "site", site)))
    return {"PYTHONPATH": path, "LD_LIBRARY_PATH": str(driver), "EDGECNN_EMULATION": "1"}


def _build_pycuda(folder: Path, toolkit: Path, site: Path) -> None:
    work = folder / f"building-{os.getpid()}"
    work.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    try:
        # The environment's own setuptools, where it is new enough to make wheels alone, saves half a minute.
        own = [] if _setuptools() < 71 else ["--no-build-isolation"]
        _run([*pip, "download", *own, "--no-deps", "--no-binary", "pycuda", f"pycuda=={PYCUDA}", "-d", work])
        (archive,) = work.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(work)
        source = work / archive.name.removesuffix(".tar.gz")
        library = _link([_compile(HERE / "libcuda.c", toolkit, work)], work / "libcuda.so")
        # cuRAND is not used here. Unoptimized: compiling takes a third of the time.
        settings = {
            "CUDA_ROOT": str(toolkit),
            "CUDA_ENABLE_CURAND": False,
            "CUDADRV_LIB_DIR": [str(library.parent)],
        }
        lines = [f"{name} = {value!r}\n" for name, value in settings.items()]
        (source / "siteconf.py").write_text("".join(lines))
        environment = {"CFLAGS": "-O0 -g0 -w", "NPY_NUM_BUILD_JOBS": "2"}
        _run([*pip, "install", *own, "--no-deps", "--target", work / "site", source], **environment)
        (work / "site").rename(site)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _setuptools() -> int:
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


def _build_driver(folder: Path, toolkit: Path, driver: Path, site: Path) -> None:
    work = folder / f"building-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        compiled = _compile(HERE / "libcuda.c", toolkit, work)
        (extension,) = (site / "pycuda").glob("_driver*.so")
        needed = {name for name in _symbols(extension, "--dynamic", "--undefined-only") if name[:2] == "cu"}
        missing = sorted(needed - set(_symbols(compiled, "--defined-only")))
        stubs = work / "stubs.c"
        stubs.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in missing))
        (work / "lib").mkdir()
        _link([compiled, _compile(stubs, toolkit, work)], work / "lib/libcuda.so.1")
        (work / "lib").rename(driver)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _compile(source: Path, toolkit: Path, folder: Path) -> Path:
    output = folder / f"{source.stem}.o"
    _run(
        ["gcc", "-O1", "-g", "-Wall", "-Werror", "-fPIC", f"-I{toolkit}/include", "-c", source, "-o", output]
    )
    return output


def _link(objects: list[Path], library: Path) -> Path:
    _run(["gcc", "-shared", "-Wl,-soname,libcuda.so.1", *objects, "-o", library, "-lpthread"])
    return library


def _symbols(file: Path, *options: str) -> list[str]:
    return [line.split()[-1] for line in _run(["nm", *options, file]).splitlines() if line.strip()]


def _run(command: list[str | Path], **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode:
        tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise EmulationUnavailableError(f"`{Path(command[0]).name} {command[1]} …` failed: {tail}")
    return done.stdout


if __name__ == "__main__":
    sys.stdout.write(json.dumps(make_emulation(Path(sys.argv[1]).absolute())) + "\n")
