from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

import edgecnn
from edgecnn import errors
from edgecnn.cli import COMMANDS, cli, main
from edgecnn.errors import EdgeCNNError

Captured = pytest.CaptureFixture[str]

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def process(
    *arguments: str, stdout: int = subprocess.PIPE, code: str = "", **environment: str
) -> subprocess.Popen[str]:
    """A real `edgecnn`; `code` runs in it before, to plant what a test needs."""
    program = (
        f"{code}\nimport sys\nsys.argv[0] = 'edgecnn'\nfrom edgecnn.cli import entry_point\nentry_point()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=stdout, stderr=subprocess.PIPE, text=True, env={**ENVIRONMENT, **environment},
    )  # fmt: skip


def plant(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `edgecnn doctor` fail."""

    def fail() -> None:
        raise error

    monkeypatch.setattr("edgecnn.doctor.examine", fail)


# --- help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: Captured) -> None:
    assert main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"Usage: edgecnn {name} " in out
    assert "--json" in out
    description, _, examples = out.partition("\n  Examples:\n")
    assert len(description.split()) > 10
    assert any(line.strip().startswith(f"edgecnn {name} ") for line in examples.splitlines())
    assert main([name, "-h"]) == 0
    assert capsys.readouterr().out == out


def examples() -> list[str]:
    """Every command line in every command's --help, and in the README's way of writing them."""
    lines: list[str] = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        text = (command.epilog or "").replace("\\\n", " ")
        lines += [line.strip() for line in text.splitlines() if line.strip().startswith("edgecnn ")]
    lines += [line.strip() for line in (cli.help or "").splitlines() if line.strip().startswith("edgecnn ")]
    return lines


@pytest.mark.parametrize("line", examples())
def test_every_example_is_a_command_line_that_is_understood(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(line, comments=True)
    end = next((index for index, word in enumerate(words) if word in ("|", ">")), len(words))
    _, name, *arguments = words[:end]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.toml").write_text('model = "model.onnx"\nsource = 0\n')
    command.make_context(name, arguments)  # parses, does not run


def test_every_module_of_a_command_is_listed() -> None:
    folder = Path(edgecnn.__file__).parent / "cli"
    modules = {
        path.stem for path in folder.glob("*.py") if "\n@click.command(" in path.read_text(encoding="utf-8")
    }
    assert modules == set(COMMANDS)


def test_the_list_of_commands(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    listed = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()]
    assert listed == list(COMMANDS)


def test_without_arguments_there_is_help(capsys: Captured) -> None:
    main([])
    assert "Commands:" in "".join(capsys.readouterr())


def test_the_version(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"edgecnn, version {edgecnn.__version__}\n", "")
    project = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^version = "(.*)"$', project, re.MULTILINE) == [edgecnn.__version__]


# --- wrong usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "No such command 'nope'"),
        (["Doctor"], "No such command 'Doctor'"),
        (["terminal"], "No such command 'terminal'"),  # a module there, and no command
        (["doctor", "--nope"], "--nope"),
        (["doctor", "more"], "more"),
        (["inspect"], "Missing argument 'FILE'"),
        (["run", "model.onnx"], "Missing option '--source'"),
        (["run", "model.onnx", "--source", "0", "--frames", "0"], "0 is not in the range x>=1"),
        (["build", "m.onnx", "-o", "o.onnx", "--precision", "int4"], "'int4' is not one of"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_wrong_usage_exits_2_and_says_how_to_get_help(
    arguments: list[str], message: str, capsys: Captured
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: edgecnn ")
    assert re.search(r"^Try 'edgecnn.* (--help|-h)' for help\.$", err, re.MULTILINE)
    assert message in err.splitlines()[-1]
    assert main([*arguments, "--json"]) == 2
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["error"]["type"] == "UsageError"


# --- errors


def reported(arguments: Sequence[str], capsys: Captured) -> tuple[str, dict[str, Any]]:
    """The one line on stderr, and the JSON object on stdout; exit code 1."""
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert main([*arguments, "--json"]) == 1
    out_json, err_json = capsys.readouterr()
    assert err_json == err
    lines = [line for line in err.splitlines() if line]  # click ends the line of a ^C
    assert len(lines) == 1
    report = json.loads(out_json.splitlines()[-1])
    assert list(report) == ["error"]
    return lines[0], report["error"]


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_one_line_and_exit_code_1(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    kind: type[EdgeCNNError] = getattr(errors, name)
    plant(monkeypatch, kind("no such thing", got="a\nb", expected="c", remedy="Make one"))
    line, report = reported(["doctor"], capsys)
    assert line == "edgecnn: error: no such thing: got a b, expected c. Make one"
    assert report == {
        "type": name,
        "message": "no such thing: got a b, expected c. Make one",
        "what": "no such thing",
        "got": "a\nb",
        "expected": "c",
        "remedy": "Make one",
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "interrupted. Files are whole or not there"),
        (click.Abort(), "interrupted. Files are whole or not there"),
        (click.FileError("x.txt", "gone"), "Could not open file 'x.txt': gone"),
        (MemoryError(), "out of memory. Use a smaller input or batch, or close other programs"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (OSError("odd"), "odd"),
        (
            ZeroDivisionError("by\nzero"),
            "internal error: ZeroDivisionError: by zero. This is a bug; EDGECNN_DEBUG",
        ),
        (EOFError("Ran out of input"), "internal error: EOFError: Ran out of input. This is a bug"),
        (AssertionError(), "internal error: AssertionError: . This is a bug"),
        (RecursionError("too deep"), "internal error: RecursionError: too deep. This is a bug"),
    ],
)
def test_whatever_happens_is_one_line(
    error: BaseException, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delenv("EDGECNN_DEBUG", raising=False)
    plant(monkeypatch, error)
    line, report = reported(["doctor"], capsys)
    assert line.startswith(f"edgecnn: error: {message}")
    assert report["message"].startswith(message)


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), EOFError("the end"), OSError(28, "full")])
def test_debug_shows_where_a_bug_is(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECNN_DEBUG", "1")
    plant(monkeypatch, error)
    with pytest.raises(type(error), match=str(error.args[-1])):
        main(["doctor"])


def test_a_trace_is_shown_with_debug_and_only_then() -> None:
    code = "import edgecnn.doctor\nedgecnn.doctor.examine = lambda: 1 / 0"
    _, err = (failed := process("doctor", code=code)).communicate()
    assert (failed.returncode, len(err.splitlines())) == (1, 1)
    _, err = (failed := process("doctor", code=code, EDGECNN_DEBUG="1")).communicate()
    assert failed.returncode == 1
    assert err.startswith("Traceback ")
    assert err.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_what_comes_from_elsewhere_cannot_steer_the_terminal(tmp_path: Path, capsys: Captured) -> None:
    name = "model\x1b]0;owned\x07\r\n\udcff  x.onnx"
    line, report = reported(["inspect", name], capsys)
    assert line.isprintable()
    assert line.startswith(r"edgecnn: error: model model\x1b]0;owned\x07 \udcff  x.onnx does not exist")
    assert report["what"] == f"model {name} does not exist"


# --- signals and pipes

SLEEP = """
import edgecnn.doctor, time
def sleep():
    print("ready", flush=True)
    time.sleep(60)
edgecnn.doctor.examine = sleep
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_is_one_line(number: int) -> None:
    with process("doctor", "--json", code=SLEEP) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 1
    assert err.strip() == "edgecnn: error: interrupted. Files are whole or not there"
    assert json.loads(out)["error"]["what"] == "interrupted"


def test_as_a_library_it_touches_no_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(main(["--version"]))
    )  # where signal.signal would fail
    thread.start()
    thread.join()
    assert codes == [0]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "arguments",
    [["doctor"], ["doctor", "--json"], ["completion", "bash"], ["--help"], ["inspect", "gone", "--json"]],
)
def test_a_reader_that_has_gone_is_no_reason_to_complain(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    running = process(*arguments, stdout=writer)
    os.close(writer)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "Traceback" not in err
    assert "Broken" not in err
    assert "Exception ignored" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("arguments", [["doctor"], ["completion", "bash"], ["--help"]])
def test_a_full_disk_behind_stdout_is_one_line(arguments: list[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    running = process(*arguments, stdout=full)
    os.close(full)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert len(err.splitlines()) == 1
    assert "No space left on device" in err


def test_a_terminal_without_unicode() -> None:
    out, err = (running := process("doctor", PYTHONIOENCODING="ascii")).communicate(timeout=60)
    assert (running.returncode, err) == (0, "")
    assert r"\u2713 OpenCV" in out  # ✓


# --- shell completion

WORDS = [
    ("edgecnn ca", ["calibrate", "cache"]),
    ("edgecnn co", ["compare", "completion"]),
    ("edgecnn ", list(COMMANDS)),
    ("edgecnn run --pre", ["--precision", "--preset"]),
    ("edgecnn run --preset i", ["imagenet", "inception"]),
    ("edgecnn build --precision ", ["fp32", "fp16", "int8", "auto"]),
    ("edgecnn run --task cl", ["classification"]),
    ("edgecnn completion z", ["zsh"]),
    ("edgecnn doctor --j", ["--json"]),
]


@pytest.mark.parametrize(("line", "expected"), WORDS)
def test_the_protocol_of_completion(line: str, expected: list[str]) -> None:
    words = line.split(" ")
    running = process(
        _EDGECNN_COMPLETE="bash_complete", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1)
    )
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, "")
    assert out.splitlines() == [f"plain,{word}" for word in expected]


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    script, program = tmp_path / "script", tmp_path / "edgecnn"
    script.write_text(process("completion", "bash").communicate(timeout=60)[0])
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgecnn "$@"\n')
    program.chmod(0o755)
    lines = ["set -e", f"source {shlex.quote(str(script))}", "complete -p edgecnn"]
    for line, _ in WORDS[:2] + WORDS[3:5]:
        words = line.split(" ")
        lines += [
            f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=()",
            '_edgecnn_completion edgecnn; echo "${COMPREPLY[@]}"',
        ]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=False,
        env={**ENVIRONMENT, "PATH": path},
    )
    assert done.stderr == ""
    registered, *replies = done.stdout.splitlines()
    assert registered == "complete -o default -o nosort -F _edgecnn_completion edgecnn"  # default: files
    assert replies == [" ".join(expected) for _, expected in WORDS[:2] + WORDS[3:5]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_as_json(shell: str, capsys: Captured) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_EDGECNN_COMPLETE" in script
    assert main(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shell": shell, "script": script.removesuffix("\n")}
