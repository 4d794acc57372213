"""What can be imported, and what importing costs."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import edgecnn

HEAVY = {"cv2", "onnx", "onnxruntime", "torch", "rich", "click", "msgspec"}


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh process has imported after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_importing_edgecnn_imports_nothing_heavy() -> None:
    assert modules_after("import edgecnn") & HEAVY == set()


def test_importing_the_runtime_imports_no_library_that_it_may_not_need() -> None:
    code = "import edgecnn.camera, edgecnn.pipeline, edgecnn.bench, edgecnn.device, edgecnn.model"
    assert modules_after(code) & {"cv2", "onnx", "onnxruntime", "torch", "rich", "click"} == set()


def test_json_lines_need_no_opencv() -> None:
    assert "cv2" not in modules_after("from edgecnn.camera import open_sink; open_sink('-')")


def test_help_needs_none_of_the_libraries() -> None:
    code = """
import contextlib, io
from edgecnn.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["run", "--help"]) == 0
"""
    assert modules_after(code) & {"cv2", "onnx", "onnxruntime", "torch"} == set()


MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(edgecnn.__path__, "edgecnn.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", ["edgecnn", *MODULES])
def test_every_public_name_exists(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in {"torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime"}:
            pytest.skip(f"{error.name} is not installed")
        raise
    names = getattr(module, "__all__", [])
    assert names == sorted(set(names), key=names.index)
    assert [missing for missing in names if not hasattr(module, missing)] == []


def test_public_names_resolve_to_where_they_live() -> None:
    assert set(edgecnn.__all__) <= set(dir(edgecnn))
    with pytest.raises(AttributeError, match="no_such_name"):
        edgecnn.no_such_name  # noqa: B018
