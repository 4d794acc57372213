from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from edgecnn.cli import cli, main
from tests.colours import SPEC, colour_cycle, write_colour_onnx, write_video

Captured = pytest.CaptureFixture[str]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def parsed(arguments: list[str]) -> dict[str, object]:
    """What `edgecnn run` understands, without running it."""
    parent = cli.context_class(
        cli, **cli.context_settings
    )  # as in a process: click keeps what it was asked first
    command = cli.get_command(parent, "run")
    assert command is not None
    return command.make_context("run", arguments, parent=parent).params


def test_a_file_says_what_the_command_line_says(tmp_path: Path) -> None:
    said = """
model = "model.onnx"
source = 0
sink = ["out.mp4", "out.jsonl"]
frames = 7
duration = 2.5
threads = 2
preset = "imagenet"
input-size = "224x160"
mean = [0.5, 0.25, 1]
force = true
json = false
[head]
multi_label = true
name = "x"
"""
    file = write(tmp_path / "app.toml", said)
    words = "model.onnx --source 0 --sink out.mp4 --sink out.jsonl --frames 7 --duration 2.5 --threads 2"
    words += " --preset imagenet --input-size 224x160 --mean 0.5,0.25,1 --force"
    words += " --head multi_label=true --head name=x"
    assert parsed(["--config", str(file)]) == parsed(words.split())


def test_every_option_can_be_said_in_a_file(tmp_path: Path) -> None:
    """Each under its own name: an option that is added can be used in a file without further work."""
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    write(tmp_path / "app.toml", "nonsense-nonsense = 1")
    with pytest.raises(click.UsageError) as caught:
        parsed(["--config", str(tmp_path / "app.toml")])
    listed = caught.value.format_message().partition("expected one of ")[2].split(", ")
    options = [max(option.opts, key=len).removeprefix("--") for option in command.params]
    assert listed == [name for name in options if name not in ("config", "help")]
    assert {"model", "source", "sink", "frames", "crop-fraction", "json"} < set(listed)


def test_the_command_line_wins(tmp_path: Path) -> None:
    file = write(tmp_path / "app.toml", 'model = "a.onnx"\nsource = "a"\nsink = ["a", "b"]\nframes = 3')
    options = parsed(["--config", str(file), "b.onnx", "--sink", "c", "--frames", "4"])
    assert (options["model"], options["sinks"], options["frames"]) == (("b.onnx",), ("c",), 4)
    assert parsed(["--config", str(file)])["sinks"] == ("a", "b")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("frame = 3", "app.toml: unknown key: got frame, expected frames"),
        ("input_size = 3", "app.toml: unknown key: got input_size, expected input-size"),
        ('sinks = "-"', "app.toml: unknown key: got sinks, expected sink"),
        ("config = 'b.toml'", "app.toml: unknown key: got config, expected one of model, source"),
        ("frames = 0", "app.toml: frames = 0: got 0 is not in the range x>=1"),
        ("frames = 2.5", "app.toml: frames = 2.5: got '2.5' is not a valid integer"),
        ('frames = "many"', "app.toml: frames = \"many\": got 'many' is not a valid integer"),
        ("frames = [1]", "app.toml: frames: got [1], expected one value"),
        ("frames = true", "app.toml: frames: got true, expected one value"),
        ("force = 1", "app.toml: force: got 1, expected true or false"),
        ('force = "yes"', 'app.toml: force: got "yes", expected true or false'),
        ("sink = [true]", "app.toml: sink: got [true], expected a value or a list of values"),
        ("[sink]\na = 1", 'app.toml: sink: got {"a": 1}, expected a value or a list of values'),
        ("[source]\nuri = 1", 'app.toml: source: got {"uri": 1}, expected '),
        ("model = 2026-11-22", 'app.toml: model: got "2026-11-22", expected a value or a list of values'),
        ("preset = 2026-11-22", 'app.toml: preset: got "2026-11-22", expected one value'),
        ('policy = "newest"', "policy 'newest': expected latest, all or queue=N"),
        ('preset = "imagnet"', "app.toml: preset = \"imagnet\": got 'imagnet' is not one of"),
        ("mean = [1, 'x']", "is no list of numbers"),
        ("frames = ", "app.toml is not TOML: got Invalid value (at "),
    ],
)
def test_mistakes(said: str, message: str, tmp_path: Path, capsys: Captured) -> None:
    file = write(tmp_path / "app.toml", said)
    assert main(["run", "--config", str(file)]) == 2  # what a service manager need not try again
    err = capsys.readouterr().err
    assert f"{tmp_path}/" in err.splitlines()[-1] or f"{tmp_path}" in err
    assert message in err.splitlines()[-1]
    assert main(["run", "--config", str(file), "--json"]) == 2
    assert message in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_file_that_is_not_text(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "app.toml").write_bytes(b"\xff\xfe")
    assert main(["run", "--config", str(tmp_path / "app.toml")]) == 2
    assert "app.toml is not TOML: got 'utf-8' codec" in capsys.readouterr().err


def test_no_file(tmp_path: Path, capsys: Captured) -> None:
    assert main(["run", "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml' does not exist" in capsys.readouterr().err


def test_what_the_file_lacks_is_missing(tmp_path: Path, capsys: Captured) -> None:
    assert main(["run", "--config", str(write(tmp_path / "app.toml", 'model = "m.onnx"'))]) == 2
    assert "Missing option '--source'" in capsys.readouterr().err


def test_a_run_from_a_file(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to the working directory, as they are on the command line."""
    work, etc = tmp_path / "work", tmp_path / "etc"
    work.mkdir()
    etc.mkdir()
    write_colour_onnx(work / "model.onnx", spec=SPEC)
    write_video(work / "in.mp4", colour_cycle(6))
    said = 'model = "model.onnx"\nsource = "in.mp4"\nsink = "-"\ncolor = "BGR"\njson = true\n'
    file = write(etc / "app.toml", said)
    monkeypatch.chdir(work)
    assert main(["run", "--config", str(file), "--frames", "3"]) == 0
    *lines, report = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["result"]["classes"][0]["label"] for line in lines] == ["blue", "green", "red"]
    assert report["frames"] == 3


def test_errors_are_json_where_the_file_asks_for_it(tmp_path: Path, capsys: Captured) -> None:
    file = write(tmp_path / "app.toml", 'model = "none.onnx"\nsource = "none.mp4"\njson = true\n')
    assert main(["run", "--config", str(file)]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "SourceError"
