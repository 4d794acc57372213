from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from edgecnn.cli.terminal import Terminated, native_stderr_muted, stop_on_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def detached(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a service: without a terminal that could be closed, whatever these tests run in."""
    monkeypatch.setattr("edgecnn.cli.terminal._has_terminal", lambda: False)


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_while_things_are_opened_a_signal_interrupts(number: int, error: type[BaseException]) -> None:
    with stop_on_signals() as stop:
        with pytest.raises(error):
            kill(number)
        assert not stop.asked


def test_the_first_signal_asks_and_the_second_interrupts() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_on_signals() as stop:
        stop.hold()
        assert not stop.asked
        kill(signal.SIGTERM)
        assert stop.asked
        assert stop.terminated
        with pytest.raises(KeyboardInterrupt):
            kill(signal.SIGINT)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_finishing_is_not_interrupted() -> None:
    with stop_on_signals() as stop:
        stop.hold()
        stop.finish()
        for _ in range(3):
            kill(signal.SIGINT)
        assert stop.asked
        assert not stop.terminated


def test_a_request_wakes_whoever_waits() -> None:
    woken = threading.Event()
    with stop_on_signals() as stop:
        stop.hold()
        stop.on_request = woken.set
        kill(signal.SIGTERM)
        assert woken.wait(30)
    assert "edgecnn-signals" not in [thread.name for thread in threading.enumerate()]
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.usefixtures("detached")
def test_a_hang_up_of_a_service_asks_to_begin_anew() -> None:
    with stop_on_signals() as stop:
        for phase in (stop.open, stop.hold, stop.finish):
            phase()
            kill(signal.SIGHUP)
            assert stop.reload
            assert not stop.asked
        stop.open()
        assert not stop.reload


def test_a_hang_up_of_a_terminal_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.cli.terminal._has_terminal", lambda: True)
    with stop_on_signals() as stop:
        stop.hold()
        kill(signal.SIGHUP)
        assert (stop.asked, stop.terminated, stop.reload) == (True, True, False)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            kill(signal.SIGHUP)
            assert not stop.asked
            assert not stop.reload
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
