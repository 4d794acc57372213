"""Bags, read back by rosbags. No ROS has read them here."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from edgecnn.camera import open_sink
from edgecnn.detections import Detections
from edgecnn.errors import ClosedError, OutputError, OutputExistsError
from edgecnn.pipeline import Output
from tests.colours import colour_cycle, colour_of, solid
from tests.outputs import fresh, output, write_all


def messages(path: Path) -> list[tuple[str, int, Any]]:
    """Topic, time in nanoseconds and message, in the order of time."""
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        return [
            (connection.topic, moment, reader.deserialize(data, connection.msgtype))
            for connection, moment, data in reader.messages()
        ]


def test_a_bag_has_pictures_and_results_with_the_time_of_capture(tmp_path: Path) -> None:
    captured_ns = []
    with open_sink(tmp_path / "out.rosbag") as sink:
        for index, image in enumerate(colour_cycle(3)):
            captured_ns.append(time.time_ns())
            made = fresh(image, index)
            time.sleep(0.05)  # inference takes its time
            sink.write(made)
        assert not (tmp_path / "out.rosbag").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.rosbag"]
    read = messages(tmp_path / "out.rosbag")
    pictures = [entry for entry in read if entry[0] == "/camera/image/compressed"]
    classes = [entry for entry in read if entry[0] == "/camera/classification"]
    assert len(read) == 6
    for (_, moment, picture), expected_ns in zip(pictures, captured_ns, strict=True):
        assert abs(moment - expected_ns) < 40_000_000
        assert picture.header.stamp.sec * 10**9 + picture.header.stamp.nanosec == moment
        assert picture.format == "bgr8; jpeg compressed bgr8"
    decoded = [np.asarray(cv2.imdecode(entry[2].data, cv2.IMREAD_COLOR), np.uint8) for entry in pictures]
    assert [colour_of(image) for image in decoded] == ["red", "green", "blue"]
    assert [moment for _, moment, _ in classes] == [moment for _, moment, _ in pictures]
    assert [(entry.class_id, entry.score) for entry in classes[0][2].results] == [("cat", 0.5), ("dog", 0.5)]
    with pytest.raises(ClosedError):
        sink.write(output())


def test_written_by_one_thread_and_closed_by_another(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.rosbag")
    before = threading.active_count()
    writing = threading.Thread(target=sink.write, args=[output()])
    writing.start()
    writing.join()
    sink.close()
    assert len(messages(tmp_path / "out.rosbag")) == 2
    assert threading.active_count() == before


def test_other_results_named_models_and_further_cameras(tmp_path: Path) -> None:
    made = fresh(solid("red", (48, 64))[:, :, 0])
    with open_sink(tmp_path / "out.rosbag") as sink:
        sink.write(output(result={"embedding": [1.5]}))
        sink.write(Output(made.result, made.frame, made.latency, results={"a": made.result}, camera=2))
    read = {topic: message for topic, _, message in messages(tmp_path / "out.rosbag")}
    assert json.loads(read["/camera/result"].data) == {"embedding": [1.5]}
    assert set(read) == {
        "/camera/image/compressed",
        "/camera/result",
        "/camera2/image/compressed",
        "/camera2/a/classification",
    }
    assert read["/camera2/image/compressed"].format == "bgr8; jpeg compressed bgr8"


def test_boxes_are_detections_and_what_is_more_is_json(tmp_path: Path) -> None:
    frames = [output(solid("red"), captured_at=time.monotonic() + second) for second in range(3)]
    boxes = Detections(
        boxes_xyxy=np.array([[2, 4, 12, 10], [0, 0, 5, 5]], np.float32),
        scores=np.array([0.75, 0.5], np.float32),
        class_ids=np.array([1, 0]),
        labels=("cat", "dog"),
        track_ids=np.array([7, -1]),
    )
    posed = replace(boxes, keypoints_xys=np.ones((2, 3, 3), np.float32))
    with open_sink(tmp_path / "out.rosbag") as sink:
        for made, result in zip(frames, (boxes, Detections.empty(), posed), strict=True):
            sink.write(Output(result, made.frame, made.latency))
    read = messages(tmp_path / "out.rosbag")
    first, none, _ = (message for topic, _, message in read if topic == "/camera/detections")
    assert [entry.id for entry in first.detections] == ["7", ""]
    dog = first.detections[0]
    assert (dog.results[0].hypothesis.class_id, dog.results[0].hypothesis.score) == ("dog", 0.75)
    assert (dog.bbox.center.position.x, dog.bbox.center.position.y) == (7, 7)
    assert (dog.bbox.size_x, dog.bbox.size_y, dog.bbox.center.theta) == (10, 6, 0)
    assert dog.header == first.header
    assert none.detections == []
    (more,) = (message for topic, _, message in read if topic == "/camera/result")
    assert json.loads(more.data) == posed.to_dict()


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.rosbag"
    write_all(open_sink(path), [solid("red")])
    with pytest.raises(OutputExistsError, match="Use --force"):
        open_sink(path)
    write_all(open_sink(path, force=True), colour_cycle(2))
    assert len(messages(path)) == 4
    (tmp_path / "precious.rosbag").mkdir()
    (tmp_path / "precious.rosbag" / "file").write_text("precious")
    with pytest.raises(OutputError, match="something there that is no bag"):
        open_sink(tmp_path / "precious.rosbag", force=True)
    with pytest.raises(OutputError, match="mkdir -p"):
        open_sink(tmp_path / "missing" / "out.rosbag")


def test_without_an_output_nothing_is_left(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.rosbag"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_a_bag_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([10**9, 10**9, 10**6])
    monkeypatch.setattr("edgecnn.camera.bag_sink.free_bytes", lambda path: next(left))
    with pytest.raises(OutputError, match=r"recording .* ended: .* It holds the first 3 frames"):
        write_all(open_sink(tmp_path / "out.rosbag"), colour_cycle(5))
    assert len(messages(tmp_path / "out.rosbag")) == 6
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.rosbag"]
