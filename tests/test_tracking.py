"""Ids of objects whose paths are known, with frames that are missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import edgecnn
from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.camera import Capture, MemoryReader, Source
from edgecnn.cli import main
from edgecnn.detections import Detections
from edgecnn.errors import BackendUnavailableError, InputError, SpecError
from edgecnn.model import Model
from edgecnn.pipeline import Pipeline
from edgecnn.spec import ImageSpec, ModelSpec
from edgecnn.tracking import ByteTrack
from tests.colours import colour_model
from tests.onnx_files import write_onnx

pytest.importorskip("trackers")

HW = (240, 320)
SIDE = 24
FPS = 30
COUNT = 5


def centre(index: int, second: float) -> tuple[float, float]:
    """Each on a line of its own: over and over it turns back, 120 px/s at most, or stands (the last one)."""
    reach = 130 if index < COUNT - 1 else 0
    x = 160 + reach * np.sin(second * (0.6 + 0.1 * index) + index)
    return float(x), 30.0 + 45 * index


def picture(second: float) -> NDArray[np.uint8]:
    """Squares on black; the red is different for each, so that the test knows which one a box is of."""
    image = np.zeros((*HW, 3), np.uint8)
    for index in range(COUNT):
        x, y = centre(index, second)
        left, top = round(x - SIDE / 2), round(y - SIDE / 2)
        cv2.rectangle(image, (left, top), (left + SIDE - 1, top + SIDE - 1), (0, 0, 150 + index), -1)
    return image


def boxes_of_squares(feeds: Any) -> dict[str, Any]:
    """The class is 0 for all of them; the score tells which one it is."""
    red = feeds["image"][0, 0] * 255
    rows = np.zeros((1, COUNT, 6), np.float32)
    for index in range(COUNT):
        ys, xs = np.nonzero(np.abs(red - 150 - index) < 0.5)
        if len(ys):
            rows[0, index] = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, 0.9 - index / 100, 0]
    return {"rows": rows}


def detector() -> Model:
    return Model(
        FunctionBackend(
            boxes_of_squares,
            inputs=(TensorInfo("image", (1, 3, *HW), "float32"),),
            outputs=(TensorInfo("rows", (1, COUNT, 6), "float32"),),
        ),
        ModelSpec(
            task="detection",
            image=ImageSpec(size_hw=HW, resize="stretch", interpolation="nearest"),
            labels=("square",),
        ),
        name="squares",
    )


class Scene:
    """A reader of the frames that were not dropped; `live` ones have their time from the machine's clock."""

    name, fps, frame_count, skipped = "scene", FPS, None, ()

    def __init__(self, frames: Sequence[int], *, live: bool) -> None:
        self.live = live
        self._frames = iter(frames)

    def read(self) -> Capture | None:
        for index in self._frames:
            second = index / FPS
            return Capture(
                picture(second),
                1000 + second if self.live else 1000,
                self.name,
                source_time=None if self.live else second,
            )
        return None

    def close(self) -> None:
        pass


def kept_frames(seed: int) -> list[int]:
    """Of ten seconds: a third is dropped here and there, and five times 10 frames in a row."""
    random = np.random.default_rng(seed)
    keep = random.random(300) > 0.3
    keep[:5] = True
    for start in (30, 80, 130, 180, 250):
        keep[start : start + 10] = False
    return [int(index) for index in np.flatnonzero(keep)]


def ids_by_square(outputs: Sequence[edgecnn.Output]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(COUNT)]
    for output in outputs:
        assert isinstance(output.result, Detections)
        assert output.result.track_ids is not None
        assert len(output.result) == COUNT
        for score, track in zip(output.result.scores, output.result.track_ids.tolist(), strict=True):
            found[round(float(0.9 - score) * 100)].append(track)
    return found


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_ids_stay_over_dropped_frames(live: bool, seed: int) -> None:
    source = Source(Scene(kept_frames(seed), live=live))
    with detector() as model, Pipeline(source, model, tracker=ByteTrack) as pipeline:
        outputs = list(pipeline)
    assert 140 < len(outputs) < 200
    ids = ids_by_square(outputs)
    assert [set(one[:1]) for one in ids] == [{-1}] * COUNT  # no object is believed at first sight
    assert [len(set(one[1:])) for one in ids] == [1] * COUNT
    assert sorted(one[1] for one in ids) == list(range(COUNT))
    assert outputs[-1].to_dict()["result"]["track_ids"] == [one[-1] for one in ids]


def test_a_clock_that_counts_frames_would_lose_them() -> None:
    """The test above is hard enough: without the time between frames, ids change."""

    class Counting(ByteTrack):
        count = 0

        def update(self, detections: Detections, seconds: float) -> Detections:
            self.count += 1
            return super().update(detections, self.count / FPS)

    changed = 0
    for seed in range(3):
        source = Source(Scene(kept_frames(seed), live=False))
        with detector() as model, Pipeline(source, model, tracker=Counting) as pipeline:
            changed += sum(len(set(one[1:])) - 1 for one in ids_by_square(list(pipeline)))
    assert changed > 0


def test_each_camera_has_ids_of_its_own_and_the_rest_stays() -> None:
    sources = [Source(MemoryReader([picture(index / FPS) for index in range(10)], fps=FPS)) for _ in range(2)]
    with detector() as one, colour_model() as other:
        models = {"objects": one, "scene": other}
        with Pipeline(sources, models, tracker=ByteTrack) as pipeline:
            outputs = list(pipeline)
    for camera in (0, 1):
        seen = [output for output in outputs if output.camera == camera]
        last = seen[-1].results["objects"]
        assert isinstance(last, Detections)
        assert sorted(last.track_ids.tolist()) == list(range(COUNT))  # type: ignore[union-attr]
        assert "track_ids" not in seen[-1].results["scene"].to_dict()


def test_an_object_that_is_away_for_long_is_a_new_one() -> None:
    def run(lost_s: float, away_s: float) -> list[int]:
        tracker = ByteTrack(lost_s=lost_s)
        box = Detections(
            boxes_xyxy=np.array([[10, 10, 30, 30]], np.float32),
            scores=np.array([0.9], np.float32),
            class_ids=np.array([0]),
        )
        seconds, ids = 0.0, []
        for shown in (box, box, box, Detections.empty(), box, box):
            found = tracker.update(shown, seconds)
            seconds += away_s if not len(shown) else 1 / 30
            assert found.track_ids is not None
            ids += found.track_ids.tolist()
        with pytest.raises(InputError, match="the clock stands"):
            tracker.update(box, 0)
        return ids

    assert run(1, 0.8) == [-1, 0, 0, 0, 0]
    assert run(1, 1.2) == [-1, 0, 0, -1, 1]
    assert run(2, 1.2) == [-1, 0, 0, 0, 0]


def test_what_cannot_be_tracked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(MemoryReader([picture(0)]))
    with colour_model() as model, pytest.raises(SpecError, match="nothing to track: got classification"):
        Pipeline(source, model, tracker=ByteTrack)
    for wrong in ({"min_score": 2}, {"lost_s": 0}, {"min_overlap": 0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} is wrong"):
            ByteTrack(**wrong)
    monkeypatch.setitem(sys.modules, "trackers", None)
    with (
        detector() as model,
        pytest.raises(BackendUnavailableError, match=r"pip install 'edgecnn\[track\]'"),
    ):
        Pipeline(source, model, tracker=partial(ByteTrack, lost_s=2))


def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("Gemm", ["means", "zeros", "box"], ["one"]),
        helper.make_node("Unsqueeze", ["one", "axis"], ["rows"]),
    ]
    constants = [
        numpy_helper.from_array(np.zeros((3, 6), np.float32), "zeros"),
        numpy_helper.from_array(np.array([2, 2, 9, 9, 0.9, 0], np.float32), "box"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    model = write_onnx(
        tmp_path / "boxes.onnx",
        nodes,
        {"image": [1, 3, 16, 16]},
        {"rows": [1, 1, 6]},
        constants=constants,
        spec=ModelSpec(task="detection", image=ImageSpec(size_hw=(16, 16)), head={"format": "end_to_end"}),
    )
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(4):
        cv2.imwrite(str(frames / f"{index}.png"), picture(index / FPS))
    assert main(["run", str(model), "--source", str(frames), "--track", "--sink", "-"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["result"]["track_ids"] for line in lines] == [[-1], [0], [0], [0]]
