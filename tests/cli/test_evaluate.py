"""`edgecnn evaluate` and `compare` with labels, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecnn.cli import main
from tests.colours import COLOURS_BGR, SPEC, solid, write_colour_onnx


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Four images of each colour; one that is called green is red."""
    folder = tmp_path / "colours"
    for colour in COLOURS_BGR:
        (folder / colour).mkdir(parents=True)
        for index in range(4):
            wrong = (colour, index) == ("green", 3)
            assert cv2.imwrite(str(folder / colour / f"{index}.png"), solid("red" if wrong else colour))
    return folder


def edgecnn(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecnn", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_for_people_and_programs(colour_onnx: Path, colours: Path, tmp_path: Path) -> None:
    plots = tmp_path / "plots"
    done = edgecnn("evaluate", str(colour_onnx), "--data", str(colours), "--plots", str(plots), "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert report["images"] == 12
    assert report["metrics"]["top1"] == pytest.approx(11 / 12)
    assert report["intervals"]["top1"][0] < 11 / 12
    assert report["confusion"]["labels"] == ["red", "green", "blue"]
    assert report["confusion"]["counts"] == [[4, 0, 0], [1, 3, 0], [0, 0, 4]]
    assert "top1" in done.stderr
    assert "classification on 12 images" in done.stderr
    picture = cv2.imread(report["plots"][0])
    assert picture is not None
    assert picture.std() > 5
    assert sorted(path.name for path in plots.iterdir()) == ["confusion.png", "confusion.svg"]
    again = edgecnn("evaluate", str(colour_onnx), "--data", str(colours), "--plots", str(plots))
    assert again.returncode == 1
    assert "holds plots already: got confusion.png" in again.stderr
    assert "top1" not in again.stderr  # said before any work


def test_classes_that_do_not_match(colour_onnx: Path, colours: Path) -> None:
    (colours / "green").rename(colours / "gr\x1b[31meen")
    done = edgecnn("evaluate", str(colour_onnx), "--data", str(colours))
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert r"gr\x1b[31meen" in done.stderr
    assert "red, green, blue" in done.stderr
    labels = colours.parent / "labels.txt"
    labels.write_text("red\ngr\x1b[31meen\nblue\n")
    done = edgecnn("evaluate", str(colour_onnx), "--data", str(colours), "--labels", str(labels))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "0.9167" in done.stdout


def test_compare_says_how_good_both_are(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_colour_onnx(tmp_path / "a.onnx"), write_colour_onnx(tmp_path / "b.onnx")
    assert main(["compare", str(first), str(second), "--data", str(colours), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["labels"]["images"] == 12
    assert report["labels"]["reference"]["top1"] == pytest.approx(11 / 12)
    assert report["labels"]["difference"]["top1"] == 0
    assert main(["compare", str(first), str(second), "--data", str(colours / "red")]) == 0  # no labels there
    assert "By the labels" not in capsys.readouterr().out
    (colours / "yellow").mkdir()
    assert cv2.imwrite(str(colours / "yellow" / "a.png"), solid("red"))
    assert main(["compare", str(first), str(second), "--data", str(colours)]) == 1
    assert "yellow" in capsys.readouterr().err


def test_ctrl_c_leaves_no_half_picture(colour_onnx: Path, tmp_path: Path) -> None:
    """Interrupted while it reads a label that never comes: everything is as before, and it says so."""
    folder = tmp_path / "many" / "red"
    folder.mkdir(parents=True)
    image = np.zeros((2000, 2000, 3), np.uint8)
    assert cv2.imwrite(str(folder / "0.png"), image)
    for index in range(1, 3000):
        (folder / f"{index}.png").symlink_to(folder / "0.png")
    plots = tmp_path / "plots"
    command = [sys.executable, "-m", "edgecnn", "evaluate", str(colour_onnx), "--data", str(folder.parent)]
    process = subprocess.Popen(
        [*command, "--plots", str(plots)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not plots.exists():  # made at the start
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list(plots.iterdir()) == []


def test_a_label_s_name_is_no_formula_for_the_plots(colours: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    odd = ("$\\frac{", "__\n<b>x</b>", "日本\x1b[2J")
    model = write_colour_onnx(tmp_path / "odd.onnx", spec=replace(SPEC, labels=odd))
    for index, colour in enumerate(("red", "green", "blue")):
        (colours / colour).rename(colours / str(index))
    plots = tmp_path / "plots"
    assert main(["evaluate", str(model), "--data", str(colours), "--plots", str(plots)]) == 0
    drawn = (plots / "confusion.svg").read_text()
    assert "<b>" not in drawn
    assert "\x1b" not in drawn
