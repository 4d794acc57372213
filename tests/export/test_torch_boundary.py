"""The boundary to torch: silence, its errors in one line, its absence in words."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import pytest

from edgecnn.errors import BackendUnavailableError
from edgecnn.export.torch_boundary import essential_line, quiet, remedy_for, require


def test_quiet_mutes_and_restores(caplog: pytest.LogCaptureFixture) -> None:
    old, mine = logging.getLogger("torch.a_test"), logging.getLogger("edgecnn.a_test")
    old.setLevel(logging.DEBUG)
    levels = [logging.getLogger(name).level for name in ("torch", "onnxscript")]
    with quiet():
        old.error("not to be seen")
        logging.getLogger("torch.made_only_now").error("not to be seen")
        logging.getLogger("onnxscript.made_only_now").warning("not to be seen")
        mine.error("to be seen")
        warnings.warn("not to be seen", FutureWarning, stacklevel=1)
        with quiet():
            pass
        old.error("still not to be seen")
    assert [record.message for record in caplog.records] == ["to be seen"]
    old.error("again")
    assert caplog.records[-1].message == "again"
    assert [logging.getLogger(name).level for name in ("torch", "onnxscript")] == levels
    with pytest.warns(FutureWarning, match="heard"):
        warnings.warn("heard", FutureWarning, stacklevel=1)


def test_quiet_restores_after_an_error() -> None:
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert not logging.getLogger("torch").disabled
    assert logging.getLogger("torch").level <= logging.CRITICAL


def chained(*messages: str) -> BaseException:
    error: BaseException = ValueError(messages[-1])
    for message in reversed(messages[:-1]):
        outer = RuntimeError(message)
        outer.__cause__ = error
        error = outer
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError("\n\n  indented\n"), "ValueError: indented"),
        (ValueError(), "ValueError"),
        (
            chained("Failed to convert. Page one\npage two", "no such operator"),
            "ValueError: no such operator",
        ),
        (RuntimeError("These were found:\n  a broken leg\n"), "RuntimeError: These were found: a broken leg"),
        (ValueError("\x1b[1mbold\x1b[0m"), "ValueError: bold"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 287 + "…"),
    ],
)
def test_essential_line(error: BaseException, line: str) -> None:
    assert essential_line(error) == line


def test_remedies() -> None:
    assert "torch.where" in str(remedy_for("Could not guard on data-dependent expression Eq(u0, 1)"))
    assert "--batch" in str(remedy_for("Constraints violated (batch)!"))
    assert "operator" in str(remedy_for("No ONNX function found for <OpOverload(op='torchvision.nms')>"))
    assert remedy_for("something else", "try again") == "try again"


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BackendUnavailableError, match=r"no_such_library is not installed. pip install 'edgecnn\[export\]'"
    ):
        require("no_such_library")
    require("json", "logging")


def test_library_that_cannot_be_imported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "built_for_another.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    (tmp_path / "needs_another.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        BackendUnavailableError, match=r"cannot be imported: got RuntimeError: operator torchvision::nms"
    ):
        require("built_for_another", remedy="pip install it")
    with pytest.raises(BackendUnavailableError, match=r"a_library_that_nobody_has is not installed"):
        require("needs_another")
    assert "built_for_another" not in sys.modules
