"""The command line: thin commands over the library, one module each.

This module is the boundary where errors become messages and exit codes:
0 success · 1 a reported error, or interrupted · 2 wrong usage.
What a command finds goes to stdout, everything else (progress, messages) to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from edgecnn import __version__
from edgecnn.errors import EdgeCNNError

__all__ = ["cli", "main"]

# In the order in which a user meets them; `edgecnn --help` keeps it.
COMMANDS = ("demo", "export", "calibrate", "build", "run", "bench", "compare", "inspect", "lower", "doctor", "completion")


class _Commands(click.Group):
    """Each command is `edgecnn.cli.NAME.command`, imported when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"edgecnn.cli.{name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
    signal.signal(signal.SIGTERM, _interrupt)  # so that a service manager's stop cleans up like Ctrl-C
    as_json = "--json" in arguments
    try:
        code = cli.main(arguments, prog_name="edgecnn", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _report(EdgeCNNError(error.format_message()), as_json)
    except EdgeCNNError as error:
        return _report(error, as_json)
    except (KeyboardInterrupt, click.Abort):
        return _report(EdgeCNNError("interrupted", remedy="Nothing unfinished was left behind"), as_json)
    except BrokenPipeError:  # the reader of our output has gone: `edgecnn run … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _report(EdgeCNNError("out of memory", remedy="Use a smaller input or batch, or close other programs"), as_json)
    except Exception as error:
        if os.environ.get("EDGECNN_DEBUG"):
            raise
        what = f"internal error: {type(error).__name__}: {error}".splitlines()[0]
        return _report(EdgeCNNError(what, remedy="This is a bug; EDGECNN_DEBUG=1 shows where"), as_json)


def entry_point() -> None:
    """What the `edgecnn` script calls."""
    sys.exit(main())


def _report(error: EdgeCNNError, as_json: bool) -> int:
    message = " ".join(str(error).split())  # one line, whatever a library put into it
    click.echo(f"edgecnn: error: {message}", err=True)
    if as_json:
        click.echo(json.dumps({"error": error.to_dict()}))
    return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
