"""A network that finds coloured squares looks at large frames in tiles; the squares' places are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.camera import MemoryReader, Source, read_image
from edgecnn.camera_input import CameraInput
from edgecnn.cli import main
from edgecnn.detections import Detections
from edgecnn.errors import ClosedError, InputError, SpecError
from edgecnn.masks import Masks
from edgecnn.model import Model
from edgecnn.pipeline import Pipeline
from edgecnn.results import UNSEEN, Segmentation
from edgecnn.spec import ImageSpec, ModelSpec
from edgecnn.tiling import RegionModel, TiledModel, merge_detections, merge_maps, tile_places
from tests.onnx_files import write_onnx

SIDE = 64
MOST = 20


def find_squares(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """(N, 3, 64, 64) → finished rows: the bounding box of each bright shade of red, which is its class.

    A square that is cut by the border is found, too, with a lower score.
    """
    rows = np.zeros((len(feeds["image"]), MOST, 6), np.float32)
    for row, image in zip(rows, feeds["image"], strict=True):
        for index, shade in enumerate(shade for shade in np.unique(image[0]) if shade > 0.5):
            ys, xs = np.nonzero(image[0] == shade)
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            cut = min(box) == 0 or max(box) == SIDE
            score = (0.4 if cut else 0.7) + (box[2] - box[0]) * (box[3] - box[1]) / SIDE**2 / 4
            row[index] = [*box, score, round(float(shade) * 255)]
    return {"rows": rows}


def detector(*, batch: int | None = None) -> Model:
    return Model(
        FunctionBackend(
            find_squares,
            inputs=(TensorInfo("image", (batch, 3, SIDE, SIDE), "float32"),),
            outputs=(TensorInfo("rows", (batch, MOST, 6), "float32"),),
        ),
        ModelSpec(
            task="detection",
            image=ImageSpec(size_hw=(SIDE, SIDE), resize="letterbox", interpolation="nearest"),
        ),
    )


def segmenter() -> Model:
    return Model(
        FunctionBackend(
            lambda feeds: {"ids": (feeds["image"][:, 0] * 255).round().astype(np.int64)},
            inputs=(TensorInfo("image", (None, 3, SIDE, SIDE), "float32"),),
            outputs=(TensorInfo("ids", (None, SIDE, SIDE), "int64"),),
        ),
        ModelSpec(task="segmentation", image=ImageSpec(size_hw=(SIDE, SIDE), resize="letterbox")),
    )


def frame_with(squares: Any, frame_hw: tuple[int, int] = (150, 230)) -> Any:
    frame = np.zeros((*frame_hw, 3), np.uint8)
    for index, (x1, y1, x2, y2) in enumerate(squares):
        frame[y1:y2, x1:x2, 2] = 150 + index
    return frame


SQUARES = [(3, 5, 13, 15), (60, 20, 72, 30), (100, 55, 110, 68), (200, 130, 230, 150), (55, 100, 66, 111)]


@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("measure", ["ios", "iou"])
def test_each_square_is_found_once_and_where_it_is(batch: int | None, measure: Any) -> None:
    """Parts of squares lie in several tiles; only `ios` sees that a small part is of the same square."""
    with TiledModel(detector(batch=batch), overlap=0.5, measure=measure) as tiled:
        found = tiled(frame_with(SQUARES))
        assert isinstance(found, Detections)
        best = found[np.unique(found.class_ids, return_index=True)[1]]
        np.testing.assert_array_equal(best.boxes_xyxy, SQUARES)
        if measure == "ios":
            assert len(found) == len(SQUARES)
        assert (np.diff(found.scores) <= 0).all()
        (again,) = tiled.batch([frame_with(SQUARES)])
        assert again.to_dict() == found.to_dict()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 218), st.integers(0, 138), st.integers(2, 12), st.integers(2, 12))
def test_anywhere_in_the_frame(x: int, y: int, width: int, height: int) -> None:
    square = (x, y, x + width, y + height)
    found = TiledModel(detector(), overlap=0.2)(frame_with([square]))
    assert found.to_dict()["boxes_xyxy"] == [list(square)]


def test_a_small_frame_is_one_tile_and_a_large_thing_needs_the_whole() -> None:
    small = frame_with([(3, 5, 13, 15)], (40, 50))
    np.testing.assert_allclose(
        TiledModel(detector())(small).to_dict()["boxes_xyxy"], detector()(small).to_dict()["boxes_xyxy"]
    )
    large = [(20, 10, 210, 140)]
    pieces = TiledModel(detector())(frame_with(large))
    assert len(pieces.to_dict()["scores"]) > 1
    (box,) = TiledModel(detector(), whole=True)(frame_with(large)).to_dict()["boxes_xyxy"]
    np.testing.assert_allclose(box, large[0], atol=230 / SIDE)  # a pixel of the scaled frame


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.floats(0, 0.9),
)
def test_tiles_cover_the_frame(frame_hw: tuple[int, int], tile_hw: tuple[int, int], overlap: float) -> None:
    if min(side / tile for side, tile in zip(frame_hw, tile_hw, strict=True)) > 20:
        return
    for axis in (0, 1):
        one = [1, 1]
        one[axis] = frame_hw[axis]
        places = tile_places((one[0], one[1]), tile_hw, overlap)
        starts = [place[1 - axis] for place in places]
        ends = [place[3 - axis] for place in places]
        size = min(tile_hw[axis], frame_hw[axis])
        assert starts[0] == 0
        assert ends[-1] == frame_hw[axis]
        assert {end - start for start, end in zip(starts, ends, strict=True)} == {size}
        for end, start in zip(ends, starts[1:], strict=False):
            assert end - start >= int(size * overlap) - 1  # a step is a whole number of pixels
        assert starts == sorted(set(starts))


def test_a_class_map_is_that_of_the_whole_frame() -> None:
    random = np.random.default_rng(0)
    frame = np.zeros((150, 230, 3), np.uint8)
    frame[..., 2] = random.integers(0, 9, (150, 230))
    found = TiledModel(segmenter(), overlap=0.25)(frame)
    assert isinstance(found, Segmentation)
    np.testing.assert_array_equal(found.class_map, frame[..., 2])


def test_each_pixel_is_of_the_tile_in_which_it_is_farthest_inside() -> None:
    left, right = (Segmentation(np.full((4, 6), index, np.uint8)) for index in (1, 2))
    merged = merge_maps([left, right], [(0, 0, 6, 4), (4, 0, 10, 4)], (4, 12)).class_map
    # both show columns 4 and 5: 4 is one pixel from the left tile's border, and at the right tile's
    assert merged[0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 255, 255]


def test_a_region_of_interest() -> None:
    region = (50, 10, 120, 80)
    with RegionModel(detector(), region) as narrow:
        found = narrow(frame_with([SQUARES[1], SQUARES[3]]))
        assert found.to_dict()["class_ids"] == [150]  # the other one lies outside
        np.testing.assert_allclose(found.to_dict()["boxes_xyxy"], [SQUARES[1]], atol=70 / SIDE)
        with pytest.raises(InputError, match=r"the region lies outside of the frame.*a part of 40x9"):
            narrow(np.zeros((9, 40, 3), np.uint8))
    shown = RegionModel(segmenter(), region)(frame_with([])).to_dict()
    assert shown["shares"] == [pytest.approx(70 * 70 / (150 * 230), abs=1e-6)]
    class_map = RegionModel(segmenter(), region)(frame_with([])).class_map  # type: ignore[attr-defined]
    assert (class_map[:10] == UNSEEN[np.dtype(np.uint8)]).all()


def test_in_a_pipeline_beside_another_model_with_ids() -> None:
    pytest.importorskip("trackers")
    from edgecnn.tracking import ByteTrack

    frames = [frame_with(SQUARES), frame_with(SQUARES[:2]), frame_with(SQUARES)]
    region = (0, 0, 150, 150)
    with (
        detector() as model,
        Pipeline(
            Source(MemoryReader(frames)),
            {
                "tiles": TiledModel(model, overlap=0.5),
                "part": RegionModel(TiledModel(model), region),
                "all": model,
            },
            tracker=ByteTrack,
        ) as pipeline,
    ):
        outputs = list(pipeline)
    tiles: list[Any] = [output.results["tiles"] for output in outputs]
    assert [sorted(found.to_dict()["boxes_xyxy"]) for found in tiles] == [
        sorted(map(list, squares)) for squares in (SQUARES, SQUARES[:2], SQUARES)
    ]
    assert (tiles[0].track_ids == -1).all()
    assert (tiles[1].track_ids >= 0).all()
    part: Any = outputs[0].results["part"]
    assert sorted(part.to_dict()["boxes_xyxy"]) == sorted(list(box) for box in SQUARES if box[2] < 150)
    assert outputs[0].annotated.shape == frames[0].shape
    # two cameras, frames of different sizes, the model closed behind
    sources = [Source(MemoryReader([frame_with(SQUARES[:1], hw)] * 3)) for hw in ((70, 90), (150, 230))]
    with TiledModel(detector()) as tiled, Pipeline(sources, tiled) as pipeline:
        assert [len(output.result.scores) for output in pipeline] == [1] * 6  # type: ignore[attr-defined]
    with pytest.raises(ClosedError):
        tiled.model(frames[0])


def test_a_model_that_takes_a_cameras_bytes_is_refused() -> None:
    model = detector()
    model.camera = CameraInput(frame_hw=(64, 64), pixel_format="nv12")
    with pytest.raises(SpecError, match=r"takes whole frames of its camera: got nv12 bytes.*--camera"):
        TiledModel(model)


def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import cv2

    # the class of a pixel is its strongest channel
    nodes = [helper.make_node("Identity", ["image"], ["scores"])]
    own = ModelSpec(task="segmentation", image=ImageSpec(size_hw=(SIDE, SIDE), resize="letterbox"))
    model = write_onnx(
        tmp_path / "channels.onnx",
        nodes,
        {"image": [1, 3, SIDE, SIDE]},
        {"scores": [1, 3, SIDE, SIDE]},
        spec=own,
    )
    frame = np.zeros((150, 230, 3), np.uint8)
    frame[:, :115, 0], frame[:, 115:, 2] = 255, 255  # blue is the network's channel 2, red its 0
    cv2.imwrite(str(tmp_path / "frame.png"), frame)

    def run(*options: str) -> Any:
        code = main(["run", str(model), "--source", str(tmp_path / "frame.png"), "--sink", "-", *options])
        return code, capfd.readouterr()

    code, said = run("--tile", "64x64", "--overlap", "0.25")
    found = json.loads(said.out)["result"]
    assert (code, found["class_ids"], found["shares"]) == (0, [0, 2], [0.5, 0.5])
    code, said = run("--tile", "64x64", "--region", "0,0,115,75")
    found = json.loads(said.out)["result"]
    assert (code, found["class_ids"], found["shares"]) == (0, [2], [0.25])
    assert run("--overlap", "0.25")[0] == 2
    assert "is no region; expected X1,Y1,X2,Y2" in run("--region", "5,5")[1].err
    assert "region is wrong" in run("--region", "5,5,4,9")[1].err


def test_evaluate_looks_as_run_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Digits that are a tenth as high as the frame: the shipped detector finds them in tiles only."""
    import cv2

    samples = Path(__file__).parents[1] / "samples"
    frame = read_image(samples / "media/world.jpg")
    digit = cv2.resize(read_image(samples / "media/digit.png"), (29, 48), interpolation=cv2.INTER_AREA)
    boxes = [(x, y, 29, 48) for x in (60, 300, 520) for y in (50, 380)]
    for x, y, width, height in boxes:
        place = frame[y : y + height, x : x + width]
        np.maximum(place, digit, out=place)
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    content = {
        "images": [{"id": 1, "file_name": "frame.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes],
        "categories": [{"id": 1, "name": "5"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    model = samples / "models/digits_detector.onnx"

    def evaluate(*options: str) -> Any:
        main(["evaluate", str(model), "--data", str(tmp_path / "labels.json"), "--json", *options])
        return json.loads(capfd.readouterr().out)

    tiles = ["--tile", "144x192", "--overlap", "0.3"]
    assert evaluate()["metrics"]["map_50"] < 0.1
    assert evaluate(*tiles)["metrics"]["map_50"] == pytest.approx(1)
    # half of the digits lie outside, and are missed
    assert evaluate(*tiles, "--region", "0,0,640,240")["metrics"]["map_50"] == pytest.approx(51 / 101)
    error = evaluate("--region", "700,0,800,90")["error"]["message"]
    assert "frame.png: the region lies outside of the frame" in error


def test_the_limit_of_a_head_is_the_frames() -> None:
    model = detector()
    surest = TiledModel(model, overlap=0.5)(frame_with(SQUARES)).to_dict()["class_ids"]
    few = TiledModel(model, overlap=0.5).with_head({"max_detections": 3})
    assert few(frame_with(SQUARES)).to_dict()["class_ids"] == surest[:3]


def test_everything_moves_with_its_box() -> None:
    dense = np.zeros((2, 40, 50), bool)
    dense[:, 5:10, 5:10] = True
    part = Detections(
        boxes_xyxy=np.array([[5, 5, 10, 10], [20, 5, 30, 10]], np.float32),
        scores=np.array([0.9, 0.8], np.float32),
        class_ids=np.array([0, 1]),
        masks=Masks.from_dense(dense),
        keypoints_xys=np.array([[[1, 2, 0.5]], [[3, 4, 0.25]]], np.float32),
        corners_xy=np.zeros((2, 4, 2), np.float32),
    )
    from edgecnn.tiling import moved

    other = moved(part, (100, 50), (200, 300))
    assert other.boxes_xyxy.tolist() == [[105, 55, 110, 60], [120, 55, 130, 60]]
    assert other.keypoints_xys is not None
    assert other.keypoints_xys[1].tolist() == [[103, 54, 0.25]]
    both = merge_detections([moved(part, (0, 0), (200, 300)), other])
    assert (len(both), both.scores.tolist()) == (4, pytest.approx([0.9, 0.9, 0.8, 0.8]))
    assert both.masks is not None
    assert both.masks.dense()[1, 55:60, 105:110].all()
    assert both.masks.areas_px().tolist() == [25] * 4
    assert len(merge_detections([Detections.empty(), part])) == 2
    assert len(merge_detections([Detections.empty(), Detections.empty()])) == 0


def test_within_one_look_nothing_is_dropped() -> None:
    box = np.array([[5, 5, 10, 10], [5, 5, 10, 11]], np.float32)
    one = Detections(boxes_xyxy=box, scores=np.array([0.9, 0.8], np.float32), class_ids=np.array([0, 0]))
    assert len(merge_detections([one])) == 2
    assert len(merge_detections([one, one])) == 2  # the twins go, of both
    other = Detections(boxes_xyxy=box, scores=np.array([0.7, 0.6], np.float32), class_ids=np.array([1, 1]))
    assert len(merge_detections([one, other])) == 4
    assert len(merge_detections([one, other], class_agnostic=True)) == 2


def test_what_cannot_be_tiled_is_refused() -> None:
    spec = ModelSpec(task="classification", image=ImageSpec(size_hw=(8, 8)))
    model = Model(
        FunctionBackend(
            lambda feeds: {"logits": np.zeros((1, 3), np.float32)},
            inputs=(TensorInfo("image", (1, 3, 8, 8), "float32"),),
            outputs=(TensorInfo("logits", (1, 3), "float32"),),
        ),
        spec,
    )
    with pytest.raises(SpecError, match="results of classification cannot be put together"):
        TiledModel(model)
    with pytest.raises(InputError, match="overlap is wrong: got 1"):
        TiledModel(detector(), overlap=1)
    with pytest.raises(SpecError, match="tile_hw is wrong"):
        TiledModel(detector(), tile_hw=(0, 5))
    with pytest.raises(InputError, match="region is wrong"):
        RegionModel(detector(), (5, 5, 5, 9))
    with pytest.raises(InputError, match="not a frame"):
        TiledModel(detector())("frame.png")  # type: ignore[arg-type]
