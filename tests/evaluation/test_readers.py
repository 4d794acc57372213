"""What is read of data sets, and what is refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecnn.errors import BackendUnavailableError, DataError, EdgeCNNError, UnlabelledError
from edgecnn.evaluation import LabelledSet, open_labelled
from edgecnn.evaluation.objects import Objects
from edgecnn.evaluation.plots import check_plots
from edgecnn.evaluation.reading import match_classes
from edgecnn.evaluation.tasks import metric_module
from tests.evaluation.sets import FRAME_HW, coco_set, spec_of, write_image


def truths(labelled: LabelledSet) -> list[Any]:
    return [frame.truth for frame in labelled]


def yolo_set(folder: Path, lines: dict[str, str]) -> Path:
    for name, text in lines.items():
        write_image(folder / "images" / f"{name}.png", hw=(100, 200))
        if text:
            (folder / "labels").mkdir(exist_ok=True)
            (folder / "labels" / f"{name}.txt").write_text(text)
    return folder


def test_yolo_boxes_polygons_and_points(tmp_path: Path) -> None:
    yolo_set(tmp_path, {"a": "1 0.5 0.5 0.2 0.4\n2 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5\n", "b": ""})
    first, second = truths(open_labelled(tmp_path, spec_of("detection")))
    np.testing.assert_allclose(first.boxes_xyxy, [[80, 30, 120, 70], [20, 10, 60, 50]])
    assert first.class_ids.tolist() == [1, 2]
    assert len(second.class_ids) == 0  # an image without a file shows nothing
    with pytest.raises(DataError, match=r"a\.txt, line 1: an object has no mask"):
        truths(open_labelled(tmp_path, spec_of("instance_segmentation")))
    yolo_set(tmp_path, {"a": "2 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5"})
    (truth, _) = truths(open_labelled(tmp_path, spec_of("instance_segmentation")))
    assert truth.areas_px.tolist() == [40 * 40]
    yolo_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.4 " + "0.25 0.5 " * 4 + "0 0"})
    (truth, _) = truths(open_labelled(tmp_path, spec_of("keypoints")))
    assert truth.keypoints_xyv[0].tolist() == [[50, 50, 2]] * 4 + [[0, 0, 0]]
    yolo_set(tmp_path, {"a": "0 0.5 0.5 0.2 0.4 0.25 0.5 1"})
    with pytest.raises(DataError, match="each of 5 points"):
        truths(open_labelled(tmp_path, spec_of("keypoints")))


def test_data_yaml_says_names_and_places(tmp_path: Path) -> None:
    yolo_set(tmp_path / "set", {"a": "0 0.5 0.5 0.2 0.4"})
    file = tmp_path / "set" / "data.yaml"
    file.write_text("path: .\nval: images\nnames:\n  0: Fish\n  1: dog\n")
    (truth,) = truths(open_labelled(file, spec_of("detection")))
    assert truth.class_ids.tolist() == [2]  # the model's fish
    file.write_text("val: images\nnames: [unicorn]\n")
    with pytest.raises(DataError, match=r"unicorn.*cat, dog, fish"):
        open_labelled(file, spec_of("detection"))
    # only classes that labels use must be the model's, as in COCO's
    file.write_text("val: images\nnames: [dog, unicorn, gnu, elf]\n")
    (truth,) = truths(open_labelled(file, spec_of("detection")))
    assert truth.class_ids.tolist() == [1]
    yolo_set(tmp_path / "set", {"b": "2 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4", "c": "3 0.5 0.5 0.2 0.4"})
    with pytest.raises(DataError, match="does not have: got gnu, elf, expected"):
        open_labelled(file, spec_of("detection"))
    for outside in ("../other/images", "/etc", "images/../../other"):
        file.write_text(f"val: {outside}\n")
        with pytest.raises(DataError, match=r"outside its folder.*--images"):
            open_labelled(file, spec_of("detection"))
    for text in (
        "!!python/object/apply:os.system ['touch /tmp/owned']",
        "a: [" * 5000,
        "val: 2026-99-99",
        "-",
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=r"no YAML|no data\.yaml"):
            open_labelled(file, spec_of("detection"))
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{n}: &{n} [{','.join([f'*{m}'] * 9)}]\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True)
    )
    file.write_text(f"{bomb}names: *i\nval: images\n")
    with pytest.raises(DataError, match="names is wrong"):
        open_labelled(file, spec_of("detection"))


def test_coco_without_boxes_and_with_uncompressed_runs(tmp_path: Path) -> None:
    """An object of 3 x 5 pixels at column 20, row 10, written in two ways; its box and area follow."""
    file = coco_set(tmp_path, images=1)
    content = json.loads(file.read_text())
    height, width = FRAME_HW
    start = 20 * height + 10
    counts = [start, 5, height - 5, 5, height - 5, 5]
    counts.append(height * width - sum(counts))
    shapes = [[[20, 10, 23, 10, 23, 15, 20, 15]], {"size": [height, width], "counts": counts}]
    content["annotations"] = [{"image_id": 1, "category_id": 7, "segmentation": shape} for shape in shapes]
    file.write_text(json.dumps(content))
    for task in ("detection", "instance_segmentation"):
        (truth,) = truths(open_labelled(file, spec_of(task)))
        assert truth.boxes_xyxy.tolist() == [[20, 10, 23, 15]] * 2
        assert truth.areas_px.tolist() == [15, 15]


Change = Callable[[dict[str, Any]], object]
HOSTILE: dict[str, tuple[Change, str]] = {
    "a path upwards": (lambda c: c["images"][0].update(file_name="../secret.png"), "outside its folder"),
    "an absolute path": (lambda c: c["images"][0].update(file_name="/etc/passwd"), "outside its folder"),
    "a null byte": (lambda c: c["images"][0].update(file_name="a\0b.png"), "names no file|not there"),
    "a link outwards": (lambda c: c["images"][0].update(file_name="link.png"), "outside its folder"),
    "an image id twice": (lambda c: c["images"][0].update(id=2), "image id is there twice: got 2"),
    "a category id twice": (lambda c: c["categories"][0].update(id=17), "category id is there twice"),
    "an annotation id twice": (lambda c: c["annotations"][0].update(id=2), "annotation id is there twice"),
    "a negative id": (lambda c: c["images"][0].update(id=-5), "negative|of no image"),
    "no such image": (lambda c: c["annotations"][0].update(image_id=999), "of no image: got image id 999"),
    "no such category": (lambda c: c["annotations"][0].update(category_id=999), "of no category"),
    "a box inside out": (lambda c: c["annotations"][0].update(bbox=[5, 5, -3, 4]), "a box is none"),
    "a box of three": (lambda c: c["annotations"][0].update(bbox=[5, 5, 3]), "a bbox is none"),
    "a box on the moon": (lambda c: c["annotations"][0].update(bbox=[1e300, 5, 3, 4]), "a box is none"),
    "a box of text": (lambda c: c["annotations"][0].update(bbox=["5", 5, 3, 4]), r"no COCO file.*bbox"),
    "an area below 0": (lambda c: c["annotations"][0].update(area=-1), "an area is none"),
    "half a point": (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5]]), "polygon is none"),
    "two points": (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "polygon is none"),
    "a far polygon": (
        lambda c: c["annotations"][0].update(segmentation=[[1, 2, 1e9, 4, 5, 6]]),
        "far outside",
    ),
    "a long outline": (
        lambda c: c["annotations"][0].update(segmentation=[[0, 0, 159, 119] * 10_000]),
        "outline is too long",
    ),
    "a bomb of run lengths": (
        lambda c: c["annotations"][0].update(segmentation={"size": [65536, 65536], "counts": [1 << 32]}),
        "another size than the image",
    ),
    "too many runs": (
        lambda c: c["annotations"][0].update(segmentation={"size": list(FRAME_HW), "counts": [1 << 40]}),
        "do not fill",
    ),
    "negative runs": (
        lambda c: c["annotations"][0].update(segmentation={"size": list(FRAME_HW), "counts": [-5, 19205]}),
        "do not fill",
    ),
    "no runs": (
        lambda c: c["annotations"][0].update(segmentation={"size": list(FRAME_HW), "counts": "\u2028~"}),
        "no run lengths",
    ),
    "a program": (
        lambda c: c["annotations"][0].update(segmentation="__import__('os')"),
        "a segmentation is none",
    ),
    "another size": (lambda c: c["images"][0].update(width=16), "another size than its labels"),
    "seven keypoints": (
        lambda c: c["annotations"][0].update(keypoints=[1, 1, 2] * 7),
        "keypoints do not fit",
    ),
    "odd visibility": (lambda c: c["annotations"][0].update(keypoints=[1, 1, 9] * 5), "keypoints are none"),
    "an unknown class": (lambda c: c["categories"][0].update(name="yeti\x1b[2J"), "yeti"),
    "no images": (lambda c: c.update(images=[], annotations=[]), "no labelled images|no keypoints"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_coco_files_are_refused(name: str, tmp_path: Path) -> None:
    change, message = HOSTILE[name]
    write_image(tmp_path / "secret.png")
    file = coco_set(tmp_path / "set", images=3)
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    task = "keypoints" if "keypoint" in name or "visibility" in name else "instance_segmentation"
    with pytest.raises(DataError, match=message):
        truths(open_labelled(file, spec_of(task)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"images": NaN}',
        '{"images": ' + "[" * 100_000,
        "\xff\xfe",
        '{"images": [{"id": 1e999}]}',
    ],
)
def test_what_is_no_coco_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="no COCO file"):
        open_labelled(file, spec_of("detection"))


def test_files_are_bounded_and_regular(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = coco_set(tmp_path, images=2)
    monkeypatch.setattr("edgecnn.evaluation.coco.LARGEST_BYTES", 1 << 10)
    with pytest.raises(DataError, match="too large"):
        open_labelled(file, spec_of("detection"))
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="no regular file"):
        open_labelled(tmp_path / "pipe.json", spec_of("detection"))
    with pytest.raises(DataError, match="no labelled data"):
        open_labelled(tmp_path / "nothing", spec_of("detection"))
    with pytest.raises(UnlabelledError, match="neither"):
        open_labelled(tmp_path.parent, spec_of("detection"))


def test_a_json_object_of_classes(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    file = tmp_path / "classes.json"
    file.write_text('{"images/a.png": "Dog"}')
    assert truths(open_labelled(file, spec_of("classification"))) == [1]
    file.write_text('{"a.png": "fish"}')
    assert truths(open_labelled(file, spec_of("classification"), images=tmp_path / "images")) == [2]
    for text, message in (
        ('{"../a.png": "fish"}', "outside its folder"),
        ('{"a.png": ["fish"]}', "holds no labels"),
        ('{"b.png": "fish"}', "an image is not there"),
        ('{"images/a.png": "yeti"}', "yeti"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            open_labelled(file, spec_of("classification"))


@pytest.mark.parametrize(
    ("module", "task"), [("pycocotools", "detection"), ("yaml", "detection"), ("matplotlib", "plots")]
)
def test_what_is_not_installed(
    module: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yolo_set(tmp_path, {"a": "0 0.5 0.5 0.1 0.1"})
    (tmp_path / "data.yaml").write_text("val: images")
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    spec = spec_of("detection")

    def use() -> None:
        if task == "plots":
            check_plots(tmp_path / "plots")
        open_labelled(tmp_path, spec)
        metric_module(task).create(spec)

    with pytest.raises(BackendUnavailableError, match=r"pip install 'edgecnn\[evaluate\]'"):
        use()


def test_labels_that_are_links_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0\n")
    yolo_set(tmp_path / "set", {"a": "0 0.5 0.5 0.2 0.4"})
    (tmp_path / "set" / "labels" / "a.txt").unlink()
    (tmp_path / "set" / "labels" / "a.txt").symlink_to(secret)
    with pytest.raises(DataError, match="leads out of its folder") as caught:
        truths(open_labelled(tmp_path / "set", spec_of("detection")))
    assert ":x:0" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 nan 0.5 0.1 0.1", "a coordinate is none"),
        ("0 0.5 inf 0.1 0.1", "a coordinate is none"),
        ("nan", "a coordinate is none: got nan"),
        ("\n0 0.5 0.5 0.1 0.1\n\n7 0.5 0.5 0.1 0.1", "line 4: no such class"),
        ("0 120 80 40 40", "from 0 to 1"),
        ("0 0.5 0.5 -0.1 0.1", "a box is none"),
        ("7 0.5 0.5 0.1 0.1", "no such class: got 7, expected 0 to 2"),
        ("-1 0.5 0.5 0.1 0.1", "no such class"),
        ("0.5 0.5 0.5 0.1 0.1", "no such class"),
        ("1e308 0.5 0.5 0.1 0.1", "no such class"),
        ("0 0.5 0.5 0.1", "neither a box nor a polygon"),
        ("cat 0.5 0.5 0.1 0.1", "no numbers"),
        ("\x00\x1b[2J", "no numbers"),
    ],
)
def test_hostile_lines_of_yolo(line: str, message: str, tmp_path: Path) -> None:
    yolo_set(tmp_path, {"a": line})
    with pytest.raises(DataError, match=message):
        truths(open_labelled(tmp_path, spec_of("detection")))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["bbox", "segmentation", "area", "iscrowd", "image_id", "category_id", "keypoints", "id"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(_FIELDS, _VALUES), min_size=1, max_size=3),
    task=st.sampled_from(["detection", "instance_segmentation", "keypoints"]),
)
def test_whatever_a_coco_file_says_is_read_or_refused(
    changes: list[tuple[str, Any]], task: str, tmp_path: Path
) -> None:
    file = tmp_path / "annotations.json"
    if not file.exists():
        coco_set(tmp_path, images=2)
        file.rename(tmp_path / "good")
    content = json.loads((tmp_path / "good").read_text())
    content["annotations"][0].update(dict(changes))
    file.write_text(json.dumps(content))
    try:
        read = truths(open_labelled(file, spec_of(task)))
    except EdgeCNNError:
        return
    assert all(isinstance(truth, Objects) and np.isfinite(truth.boxes_xyxy).all() for truth in read)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text("0123456789.-einfa \n", max_size=60).map(str.encode))
def test_whatever_a_label_of_yolo_says_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    if not (tmp_path / "images").exists():
        yolo_set(tmp_path, {"a": "0 0.5 0.5 0.1 0.1"})
    (tmp_path / "labels" / "a.txt").write_bytes(content)
    try:
        (read,) = truths(open_labelled(tmp_path, spec_of("detection")))
    except EdgeCNNError:
        return
    assert np.isfinite(read.boxes_xyxy).all()
    assert (read.class_ids < 3).all()


def test_a_folder_that_holds_masks_alone(tmp_path: Path) -> None:
    write_image(tmp_path / "a_mask.png")
    with pytest.raises(UnlabelledError, match=r"NAME_mask\.png"):
        open_labelled(tmp_path, spec_of("segmentation"))


def test_classes_are_matched_by_name() -> None:
    labels = ("traffic_light", "crane", "crane", "Dog")
    assert match_classes({5: "Traffic Light", 6: "dog", 7: "1"}, labels, where="set") == {5: 0, 6: 3, 7: 1}
    with pytest.raises(DataError, match="several of the model's classes are called crane"):
        match_classes({1: "crane"}, labels, where="set")
    with pytest.raises(DataError, match=r"cow, 9, expected among the model's 4: traffic_light"):
        match_classes({1: "cow", 2: "9"}, labels, where="set")
    with pytest.raises(DataError, match="no class names"):
        match_classes({1: "cow"}, (), where="set")
    assert match_classes({1: "3"}, (), where="set") == {1: 3}
