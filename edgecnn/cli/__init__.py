"""The command line: thin commands over the library, one module each.

This module is the boundary where errors become messages and exit codes:
0 success, or `run` stopped by SIGTERM · 1 a reported error, or interrupted · 2 wrong usage.
What a command finds goes to stdout, everything else (progress, messages) to stderr.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from edgecnn import __version__
from edgecnn.cli.common import emit, say
from edgecnn.cli.systemd import journal_prefix
from edgecnn.cli.terminal import Terminated
from edgecnn.errors import EdgeCNNError

__all__ = ["cli", "entry_point", "main"]

# In the order in which a user meets them; `edgecnn --help` keeps it.
COMMANDS = (
    "demo", "export", "calibrate", "build", "run", "bench", "evaluate", "compare", "inspect", "lower",
    "table", "cache", "doctor", "completion",
)  # fmt: skip


class _Commands(click.Group):
    """Each command is `edgecnn.cli.NAME.command`, imported when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{name}").command
        return command


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="edgecnn")
def cli() -> None:
    """From a trained PyTorch CNN to verified real-time inference on an edge device.

    \b
    edgecnn export torchvision:resnet18 --weights resnet18.pth --preset imagenet -o model.onnx
    edgecnn calibrate model.onnx --data photos/ -o model.calibrated.onnx
    edgecnn build model.calibrated.onnx --precision int8 --target onnxruntime -o model.int8.onnx
    edgecnn run model.int8.onnx --source 0 --sink out.mp4

    `edgecnn COMMAND --help` has examples for each. Every command takes --json, which makes the last line
    on stdout one JSON object.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that does not know ✓ is no error
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except SystemExit as end:  # from click: completion has been printed, or the reader of our output has gone
        return end.code if isinstance(end.code, int) else 0
    except OSError as error:
        if os.environ.get("EDGECNN_DEBUG"):
            raise
        # There is nobody to print for. Unless it goes elsewhere, Python would fail again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # that one is usual: `edgecnn run … | head`
            click.echo(f"edgecnn: error: cannot write to stdout: {error.strerror}", err=True)
        return 1
    return code


def entry_point() -> None:
    """What the `edgecnn` script calls."""
    signal.signal(signal.SIGTERM, _terminate)  # so that a service manager's stop cleans up like Ctrl-C
    code = main()
    for number in (signal.SIGINT, signal.SIGTERM):  # all is done: what is left is Python's own end
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command line; errors become messages. What writing to stdout raises comes through."""
    said = {"as_json": "--json" in arguments}  # `json_option` tells it too
    try:
        code = cli.main(arguments, prog_name="edgecnn", standalone_mode=False, obj=said)
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        if journal_prefix(logging.ERROR):
            say(f"edgecnn: error: {error.format_message()}", logging.ERROR)
        else:
            error.show()
        if said["as_json"]:
            _print_json(EdgeCNNError(error.format_message()), "UsageError")
        return 2
    except click.ClickException as error:
        return _report(EdgeCNNError(error.format_message()), said["as_json"])
    except EdgeCNNError as error:
        return _report(error, said["as_json"])
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error.__context__, EOFError):  # click takes it for Ctrl-D at a prompt; we never prompt
            return _report_bug(error.__context__, said["as_json"])
        if arguments[:1] == ["run"] and Terminated in (type(error), type(error.__cause__)):
            return 0  # a service that is stopped before it has begun has not failed
        remedy = "Files are whole or not there"
        return _report(EdgeCNNError("interrupted", remedy=remedy), said["as_json"])
    except MemoryError:
        remedy = "Use a smaller input or batch, or close other programs"
        return _report(EdgeCNNError("out of memory", remedy=remedy), said["as_json"])
    except OSError as error:  # the system's, and not translated nearer to its cause
        if os.environ.get("EDGECNN_DEBUG"):
            raise
        parts = (error.filename, error.strerror or error)
        return _report(EdgeCNNError(": ".join(str(part) for part in parts if part)), said["as_json"])
    except Exception as error:
        return _report_bug(error, said["as_json"])


def _report_bug(error: BaseException, as_json: bool) -> int:
    if os.environ.get("EDGECNN_DEBUG"):
        raise error
    what = f"internal error: {type(error).__name__}: {error}"
    return _report(EdgeCNNError(what, remedy="This is a bug; EDGECNN_DEBUG=1 shows where"), as_json)


def _report(error: EdgeCNNError, as_json: bool) -> int:
    say(f"edgecnn: error: {error}", logging.ERROR)
    if as_json:
        _print_json(error)
    return 1


def _print_json(error: EdgeCNNError, kind: str | None = None) -> None:
    report = error.to_dict()
    emit({"error": {**report, "type": kind or report["type"]}}, as_json=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
