from __future__ import annotations

import os
import signal
import sys

import pytest

from edgecnn.cli.terminal import native_stderr_muted, stop_on_signals


def test_the_first_signal_asks_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_finishing_is_not_interrupted() -> None:
    with stop_on_signals() as stop:
        stop.finish()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="inside"), stop_on_signals():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is before


def test_only_what_python_writes_gets_through(capfd: pytest.CaptureFixture[str]) -> None:
    stderr = sys.stderr
    with native_stderr_muted():
        os.write(2, b"from a C library\n")
        sys.stderr.write("from Python\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "from Python\nafterwards\n"
    assert sys.stderr is stderr


def test_a_replaced_stderr_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import io

    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stderr", replaced)
    with native_stderr_muted():
        assert sys.stderr is replaced
        os.write(2, b"from a C library\n")
    assert capfd.readouterr().err == ""


def test_debugging_shows_everything(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGECNN_DEBUG", "1")
    with native_stderr_muted():
        os.write(2, b"from a C library\n")
    assert capfd.readouterr().err == "from a C library\n"
