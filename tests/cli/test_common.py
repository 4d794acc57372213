from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.cli.common import Size, emit, print_table, printable, progress_bar
from edgecnn.progress import no_progress


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, Käse, 犬, ✓ –", "plain text, Käse, 犬, ✓ –"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\tb\rc\x00", r"a\tb\rc\x00"),
        ("\udcff", r"\udcff"),  # a byte of a file's name that is not UTF-8
        ("left \u202egnp.exe", r"left \u202egnp.exe"),  # would show the rest from right to left
        (r"C:\path", r"C:\path"),
    ],
)
def test_printable_escapes_what_is_not(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_printable_text_can_be_shown_anywhere(text: str) -> None:
    assert printable(text).replace("\n", "").isprintable()
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("224x160", (224, 160)), ("224X160", (224, 160)), ("8", (8, 8)), ("1080x1920", (1080, 1920))],
)
def test_a_size(text: str, size: tuple[int, int]) -> None:
    assert Size().convert(text, None, None) == size
    assert Size().convert(size, None, None) == size


@pytest.mark.parametrize(
    "text",
    ["", "x", "8x", "x8", "8x8x8", "0x8", "8x0", "-8x8", "8.0", "8 x 8", "²", "٣x٣", "9" * 5000, "0x10"],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size; expected HxW, such as 224x224"):
        Size().convert(text, None, None)


def test_a_report_is_one_line_of_json_and_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": [1, "ü\n"]}, False)
    assert capsys.readouterr().out == ""
    emit({"a": [1, "ü\n"]}, True)
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": [1, "ü\n"]}
    assert len(out.splitlines()) == 1
    with pytest.raises(ValueError, match="not JSON compliant"):  # a reader of JSON could not read it
        emit({"a": math.nan}, True)


def test_a_table_goes_where_json_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("[bold]name[/bold]", 1.5), ("\x1b[31m", None)]
    print_table("a title [i]", rows, ("", "value"))
    out, err = capsys.readouterr()
    assert err == ""
    for text in ("a title [i]", "[bold]name[/bold]", r"\x1b[31m", "1.5", "None", "value"):
        assert text in out
    print_table("a title [i]", rows, ("", "value"), as_json=True)
    assert capsys.readouterr() == ("", out)


def test_a_long_value_is_folded_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("title", [("name", "0123456789" * 30)], ("", "value"))
    out = capsys.readouterr().out
    assert sum(character.isdigit() for character in out) == 300
    assert max(map(len, out.splitlines())) <= 120


def test_progress_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        assert progress is no_progress
        progress("stage", 1, 2)
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_shows_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal: Any = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress_bar() as progress:
        progress("reading [/b] {x}", 3, 7)  # neither markup nor a format
        progress("counting", 5, None)
        progress("counting", 6, 6)
    shown = terminal.getvalue()
    for text in ("reading [/b] {x}", "3/7", "counting", "6/6"):
        assert text in shown


def test_what_a_table_is_made_of_may_be_anything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_table("", [(tmp_path, {"a": 1}), (None, ["x"])], ("a", "b"), align="left")
    assert "{'a': 1}" in capsys.readouterr().out
