"""`edgecnn demo` on its real network, photos and videos. It runs once for all of the tests here."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from edgecnn import demo
from edgecnn.camera import read_image
from edgecnn.cli import main
from edgecnn.compare import Agreement, OutputAgreement
from edgecnn.demo import DemoResult, run_demo, split_photos
from edgecnn.errors import BackendUnavailableError, EdgeCNNError, OutputError, OutputExistsError
from edgecnn.labels import read_labels
from edgecnn.metadata import EXPORT_KEY, read_json
from edgecnn.model import load
from edgecnn.quantization import QuantizationTable
from edgecnn.results import Classification
from tests.colours import decode_video

CATS = read_labels("imagenet")[281:286]  # tabby, tiger cat, Persian, Siamese, Egyptian
ARTIFACTS = (
    "model.onnx", "model.calibrated.onnx", "model.fp32.onnx", "model.int8.onnx",
    "photos.jpg", "video.mp4", "video.jsonl",
)  # fmt: skip
PHOTOS = 16  # to judge by, each whole and as four crops
VIDEO_FRAMES = 25

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(demo_run: tuple[Path, str]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(demo_run[1].splitlines()[-1])
    return parsed


def predictions(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["image"]: entry for entry in report["predictions"]}


# --- what it says


def test_the_report_has_what_others_read(report: dict[str, Any], demo_folder: Path) -> None:
    assert list(report) == [
        "fp32", "int8", "top1_agreement", "sqnr_db", "images", "predictions", "artifacts",
    ]  # fmt: skip
    for precision in ("fp32", "int8"):
        measured = report[precision]
        assert list(measured) == ["latency_ms", "fps", "file_mb"]
        assert list(measured["latency_ms"]) == ["p50", "p90", "p99", "mean"]
        assert measured["latency_ms"]["p50"] > 0
        assert measured["fps"] == pytest.approx(1e3 / measured["latency_ms"]["mean"], abs=0.1)
        size = (demo_folder / f"model.{precision}.onnx").stat().st_size
        assert measured["file_mb"] == round(size / 1e6, 2)
    assert report["int8"]["file_mb"] < report["fp32"]["file_mb"] / 3
    assert len(report["predictions"]) == PHOTOS
    for entry in report["predictions"]:
        assert list(entry) == ["image", "label", "score", "fp32_label", "fp32_score", "true_label"]
        assert 0 <= entry["score"] <= 1
    assert report["artifacts"] == [str(demo_folder / name) for name in ARTIFACTS]


def test_int8_is_close_to_fp32_on_frames_that_calibration_did_not_see(report: dict[str, Any]) -> None:
    assert report["images"] == PHOTOS * 5 + VIDEO_FRAMES
    assert 12 < report["sqnr_db"] < 60
    assert report["top1_agreement"] > 0.8


def test_a_cat_is_a_cat_and_coffee_is_coffee(report: dict[str, Any]) -> None:
    cat, coffee = (predictions(report)[name] for name in ("chelsea.png", "coffee.png"))
    assert cat["label"] in CATS
    assert cat["fp32_label"] in CATS
    assert coffee["label"] == coffee["fp32_label"] == "espresso"
    assert coffee["score"] > 0.8
    assert coffee["true_label"] is None


def test_photos_whose_class_is_known_are_mostly_right(report: dict[str, Any]) -> None:
    known = [entry for entry in report["predictions"] if entry["true_label"] is not None]
    assert len(known) == 10
    assert sum(entry["label"] == entry["true_label"] for entry in known) >= 8
    assert predictions(report)["imagenet_15_99.jpg"]["true_label"] == "goose"


# --- what it writes


def test_the_models_load_and_say_what_they_are(demo_folder: Path) -> None:
    names = {"model.onnx": "as in the file", "model.calibrated.onnx": "as in the file",
             "model.fp32.onnx": "fp32", "model.int8.onnx": "int8"}  # fmt: skip
    photo = read_image(demo.packaged("skimage/data/coffee.png"))
    for name, precision in names.items():
        with load(demo_folder / name) as model:
            assert model.precision == precision
            result = model(photo)
            assert isinstance(result, Classification)
            assert result.best.label == "espresso"
            exported = read_json(model.backend.metadata, EXPORT_KEY)
            assert exported is not None


def test_calibration_used_the_frames_that_are_kept(demo_folder: Path) -> None:
    metadata = {
        entry.key: entry.value for entry in onnx.load(demo_folder / "model.calibrated.onnx").metadata_props
    }
    table = QuantizationTable.from_metadata(metadata)
    assert table is not None
    assert table.frames == len(list((demo_folder / "frames" / "calibration").iterdir()))


def test_the_video_shows_a_result_on_every_frame(demo_folder: Path) -> None:
    original = decode_video(demo.packaged(demo.VIDEO))
    annotated = decode_video(demo_folder / "video.mp4")
    assert len(annotated) == len(original) == 250
    for before, after in zip(original[::50], annotated[::50], strict=True):
        assert after.shape == before.shape
        corner = np.abs(after[:20, :60].astype(int) - before[:20, :60]).mean()
        rest = np.abs(after[100:].astype(int) - before[100:]).mean()
        assert corner > 3 * rest  # text there; elsewhere only what compression changes
    lines = [json.loads(line) for line in (demo_folder / "video.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(250))
    assert all(len(line["result"]["classes"]) == 5 for line in lines)


def test_the_picture_has_a_tile_for_each_photo(demo_folder: Path) -> None:
    picture = read_image(demo_folder / "photos.jpg")
    assert picture.shape == (4 * 300, 4 * 400, 3)
    tiles = picture.reshape(4, 300, 4, 400, 3).swapaxes(1, 2)
    assert tiles.reshape(PHOTOS, -1).std(axis=1).min() > 5  # none is empty


def test_nothing_else_is_left(demo_folder: Path) -> None:
    assert {path.name for path in demo_folder.iterdir()} == {*ARTIFACTS, "frames"}
    assert {path.name for path in (demo_folder / "frames").iterdir()} == {"calibration", "evaluation"}


# --- no frame on both sides


def test_no_source_is_on_both_sides() -> None:
    calibration, evaluation = split_photos()
    assert (len(calibration), len(evaluation)) == (14, PHOTOS)
    assert not set(calibration) & set(evaluation)
    assert demo.CALIBRATION_VIDEO != demo.VIDEO
    contents = [hashlib.sha256(path.read_bytes()).digest() for path in calibration + evaluation]
    assert len(set(contents)) == len(contents)  # nor under another name


def test_no_frame_is_on_both_sides(demo_folder: Path) -> None:
    kinds = []
    for name, photos, video in zip(
        ("calibration", "evaluation"), split_photos(), (demo.CALIBRATION_VIDEO, demo.VIDEO), strict=True
    ):
        files = list((demo_folder / "frames" / name).iterdir())
        assert len(files) == len(photos) * 5 + VIDEO_FRAMES
        assert {file.stem.rpartition("-")[0] for file in files} == {
            *(p.stem for p in photos),
            Path(video).stem,
        }
        kinds.append({hashlib.sha256(cv2.imread(str(file)).tobytes()).digest() for file in files})  # type: ignore[union-attr]
    assert not kinds[0] & kinds[1]


# --- folders


class Stopped(EdgeCNNError):
    """Raised in place of the export, when all that is tested has happened."""


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: Path) -> None:
        raise Stopped("here")

    monkeypatch.setattr(demo, "export_efficientnet", stop)


def test_a_second_run_is_refused_without_force(demo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo_folder.rglob("*")}
    assert main(["demo", "-o", str(demo_folder), "--json"]) == 1
    out, err = capsys.readouterr()
    assert err == f"edgecnn: error: {demo_folder} is not empty. Use --force to write into it\n"
    assert json.loads(out)["error"]["type"] == "OutputExistsError"
    assert {path: path.stat().st_mtime_ns for path in demo_folder.rglob("*")} == before


def test_force_removes_an_earlier_demos_frames_and_nothing_else(stopped: None, tmp_path: Path) -> None:
    mine = ["notes.txt", "frames/mine.png", "frames/calibration/labels.csv", "frames/other/cat-1.png"]
    old = ["frames/calibration/coins-0.png", "frames/evaluation/bikes-07.png"]
    for name in mine + old:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(OutputExistsError):
        run_demo(tmp_path)
    with pytest.raises(Stopped):
        run_demo(tmp_path, force=True)
    assert [name for name in mine + old if (tmp_path / name).exists()] == mine


def test_a_folder_that_is_there_and_empty_is_fine(stopped: None, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run_demo(tmp_path)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_cannot_be_made(stopped: None, tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=f"cannot write into {folder}: got "):
            run_demo(folder, force=force)


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "export_efficientnet", lambda path: None)
    monkeypatch.setattr(cv2, "imwrite", lambda path, image: False)
    with pytest.raises(OutputError, match=r"cannot write .*\.png\. Is the disk full"):
        run_demo(tmp_path / "out")


# --- packages


@pytest.mark.parametrize("name", ["WEIGHTS", "VIDEO", "CALIBRATION_VIDEO", "LABELLED_PHOTOS"])
@pytest.mark.parametrize("place", ["no_such_package/file", "skimage/no_such_file"])
def test_a_package_that_is_missing_is_found_before_anything_is_written(
    name: str, place: str, stopped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, name, place)
    message = (
        rf"the demo's packages are not installed: got no {place}\. pip install .*edgecnn\[cpu,export,demo\]"
    )
    with pytest.raises(BackendUnavailableError, match=message):
        run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["torch", "efficientnet_lite_pytorch"])
def test_a_module_that_is_missing(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailableError, match="the demo's packages are not installed"):
        demo.export_efficientnet(tmp_path / "model.onnx")


def test_no_difference_is_none_in_json() -> None:
    same = Agreement(
        images=1, outputs={"x": OutputAgreement(sqnr_db=None, cosine=1.0, max_abs_error=0.0)}, metrics={}
    )
    assert math.isinf(same.worst_sqnr_db)
    result = DemoResult(precisions={}, agreement=same, predictions=[], artifacts=[])
    assert result.to_dict()["sqnr_db"] is None


# --- Ctrl-C

# The export takes ten seconds and is interrupted elsewhere; here its file is there at once.
PROGRAM = """
import shutil, sys
from pathlib import Path
import edgecnn.demo
from edgecnn.cli import entry_point
exported = sys.argv.pop()
edgecnn.demo.export_efficientnet = lambda path: shutil.copy(exported, path)
entry_point()
"""


@pytest.mark.parametrize(
    ("awaited", "number"),
    [("frames/evaluation/bikes-24.png", signal.SIGINT), ("model.calibrated.onnx", signal.SIGTERM)],
)
def test_interrupted_in_the_middle(awaited: str, number: int, demo_folder: Path, tmp_path: Path) -> None:
    """While it calibrates and while it builds: what is there is whole."""
    folder = tmp_path / "out"
    arguments = ["demo", "-o", str(folder), str(demo_folder / "model.onnx")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as running:  # fmt: skip
        while not (folder / awaited).exists():
            assert running.poll() is None, running.communicate()
            time.sleep(0.005)
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert out == ""
    assert err.strip() == "edgecnn: error: interrupted. Files are whole or not there"
    models = {path.name for path in folder.glob("*.onnx")}
    assert "model.onnx" in models
    assert models < set(ARTIFACTS)
    for name in models:
        onnx.checker.check_model(onnx.load(folder / name))
    assert [path for path in folder.rglob("*") if path.name.startswith(".")] == []  # no temporary files
