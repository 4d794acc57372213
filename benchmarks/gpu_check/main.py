"""`scripts/gpu_check`: everything that needs a GPU, in some minutes, offline; a table, then one line of JSON.

Needs NumPy, onnx, onnxruntime, PyCUDA, and tensorrt or tensorrt_rtx or neither. Exit code 0 when every check
that could run passed, 1 when one failed or there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from edgecnn.backends.tensorrt_library import FLAVOURS
from edgecnn.errors import EdgeCNNError
from edgecnn.gpu import read_gpu

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run every check; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, help="more ONNX files, compiled as they are")
    parser.add_argument("--only", choices=("cuda", *FLAVOURS), help="one part of the checks")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each rate is measured")
    options = parser.parse_args(arguments)
    logging.getLogger("edgecnn").setLevel(logging.ERROR)  # each plan here is without its sidecar
    if missing := [str(path) for path in options.models if not path.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    gpu = read_gpu()
    if gpu is None:
        print("No NVIDIA GPU here, or no driver for it (libcuda.so.1): nothing was checked.")
        print(json.dumps({"gpu": None, "checks": [], "failed": 0}))
        return 1
    versions = {name: _version(name) for name in ("pycuda", "numpy", "onnx", "onnxruntime", *FLAVOURS)}
    found = ", ".join(f"{name} {version or '–'}" for name, version in versions.items())
    memory = f"{gpu.memory_bytes >> 20} MiB"
    print(f"{gpu.name}, compute capability {gpu.compute_capability}, {memory}, CUDA {gpu.cuda}")
    print(f"Python {platform.python_version()} on {platform.machine()}, {found}\n")
    start = perf_counter()
    table = _Table()
    if options.only in (None, "cuda"):
        _check_cuda(table)
    for flavour in FLAVOURS:
        if options.only in (None, flavour):
            _check_engines(table, flavour, options.models, options.seconds)
    seconds = perf_counter() - start
    totals = ", ".join(f"{table.count(state)} {state}" for state in ("ok", "failed", "skipped"))
    print(f"\n{totals}, {seconds:.0f} s")
    report = {
        "gpu": asdict(gpu),
        "versions": versions,
        "seconds": round(seconds, 1),
        "failed": table.count("failed"),
        "checks": table.rows,
    }
    print(json.dumps(report))
    return 1 if table.count("failed") else 0


class _Table:
    """Rows that are printed as they come."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, state: str, words: str, figures: dict[str, Any]) -> None:
        self.rows.append({"name": name, "state": state, "words": words, **figures})
        print(f"{state:8} {name:44} {' '.join(words.split())}", flush=True)

    def count(self, state: str) -> int:
        return sum(row["state"] == state for row in self.rows)


def _check_cuda(table: _Table) -> None:
    try:
        from benchmarks.gpu_check.cuda import CUDA_CHECKS, Skipped
        from edgecnn.backends.cuda import import_pycuda

        import_pycuda()
    except EdgeCNNError as error:
        table.add("PyCUDA", "failed", str(error), {})
        return
    for name, check in CUDA_CHECKS.items():
        try:
            words = check()
        except Skipped as skipped:  # noqa: PERF203  # a dozen of them
            table.add(name, "skipped", str(skipped), {})
        except Exception as error:  # whatever it is belongs into the table, and the next one is tried
            table.add(name, "failed", f"{type(error).__name__}: {error}", {})
        else:
            table.add(name, "ok", words, {})


def _check_engines(table: _Table, flavour: str, models: list[Path], seconds: float) -> None:
    from benchmarks.gpu_check.engines import check_flavour

    try:
        trt = importlib.import_module(flavour)
    except (ImportError, OSError) as error:
        table.add(flavour, "skipped", f"cannot be imported: {error}", {})
    else:
        check_flavour(trt, models, table.add, seconds=seconds)


def _version(name: str) -> str | None:
    try:
        return str(getattr(importlib.import_module(name), "__version__", None) or _metadata_version(name))
    except (ImportError, OSError):
        return None


def _metadata_version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
