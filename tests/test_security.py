"""What comes from elsewhere – names, labels, metadata, files – is data, wherever it ends up."""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgecnn
from edgecnn.cli import main
from edgecnn.errors import InputError, ModelFormatError, SpecError
from edgecnn.gallery import Gallery
from edgecnn.labels import read_labels
from edgecnn.masks import Masks, decode_runs
from tests.colours import SPEC, solid, write_colour_onnx

ODD = (
    '=HYPERLINK("http://nowhere.invalid")',
    "\x1b]0;owned\x07{0.__class__}%s",
    "<img src=x onerror=alert(1)>\n\x9b31m",
)


@pytest.fixture
def odd_model(tmp_path: Path) -> Path:
    """A real model whose class names try to be something else."""
    return write_colour_onnx(tmp_path / "odd.onnx", spec=replace(SPEC, labels=ODD, name="\x1b[2J"))


@pytest.mark.parametrize(
    "words", [["inspect"], ["run", "--source"], ["evaluate", "--data"], ["compare", "--data"]]
)
def test_nothing_steers_the_terminal(
    words: list[str], odd_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, colour in enumerate(("red", "green", "blue")):
        (tmp_path / "set" / str(index)).mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / "set" / str(index) / "\x1b[31m.png"), solid(colour))
    data = {"inspect": [], "run": [str(tmp_path / "set" / "1")]}.get(words[0], [str(tmp_path / "set")])
    models = [str(odd_model)] * (2 if words[0] == "compare" else 1)
    assert main([words[0], *models, *words[1:], *data]) == 0
    shown = "".join(capsys.readouterr())
    assert shown
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []


def test_no_formula_gets_into_a_spreadsheet(odd_model: Path, tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "red.png"), solid("red"))
    arguments = [
        "run",
        str(odd_model),
        "--source",
        str(tmp_path / "red.png"),
        "--sink",
        str(tmp_path / "a.csv"),
    ]
    assert main(arguments) == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels[0] == "'" + ODD[0]
    assert set(labels[1:]) == set(ODD[1:])


def test_odd_names_are_drawn_as_text(odd_model: Path) -> None:
    with edgecnn.load(odd_model) as model:
        frame = solid("green", (200, 300))
        before = frame.copy()
        model.task.draw(frame, model(frame))
    assert (frame != before).any()


def test_run_lengths_ask_for_no_more_memory_than_their_frame() -> None:
    bomb = {"size": [60_000, 60_000], "counts": [60_000 * 60_000]}
    with pytest.raises(InputError, match="do not fill"):
        decode_runs(bomb)
    with pytest.raises(InputError, match="wrong size of a mask"):
        Masks.from_coco([bomb], (100, 100))
    whole = {"size": [3, 2], "counts": [1, 5]}
    assert Masks.from_coco([whole, whole], (3, 2)).areas_px().tolist() == [5, 5]


def test_a_gallery_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.gallery.LARGEST_BYTES", 1 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        zeros = io.BytesIO()
        np.save(zeros, np.zeros((1 << 16, 8), np.float32))
        file.writestr("vectors.npy", zeros.getvalue())
    assert len(packed.getvalue()) < 1 << 14
    (tmp_path / "bomb.npz").write_bytes(packed.getvalue())
    with pytest.raises(ModelFormatError, match="bytes, unpacked"):
        Gallery.load(tmp_path / "bomb.npz")
    about = np.array('{"version":1,"network":""}')
    np.savez(tmp_path / "numbers.npz", vectors=np.ones((1, 2), np.float32), names=np.array([7]), about=about)
    with pytest.raises(ModelFormatError, match="damaged"):
        Gallery.load(tmp_path / "numbers.npz")


def test_a_file_of_labels_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.labels.LONGEST", 100)
    (tmp_path / "labels.txt").write_text("a\n" * 51)
    with pytest.raises(SpecError, match="too long"):
        read_labels(tmp_path / "labels.txt")
