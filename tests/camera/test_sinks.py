from __future__ import annotations

import csv
import json
import logging
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.camera import (
    CallbackSink,
    MemoryReader,
    MemorySink,
    Source,
    StopRequested,
    open_sink,
    sink_help,
    video_sink,
)
from edgecnn.camera.csv_sink import rows
from edgecnn.camera.line_sinks import JsonLinesSink
from edgecnn.camera.pacing import Places
from edgecnn.camera.video_sink import VideoSink, fit
from edgecnn.errors import ClosedError, OutputError, OutputExistsError
from edgecnn.pipeline import Latency, Output
from edgecnn.results import Result
from tests.colours import colour_cycle, colour_of, decode_video, solid
from tests.outputs import output, write_all


def listing(folder: Path) -> list[str]:
    """Everything in a folder, temporary files included."""
    return sorted(entry.name for entry in folder.iterdir())


# every sink -----------------------------------------------------------------------------------------------


FILES = ["out.mp4", "out.mkv", "out.avi", "out.png", "out.jpg", "out.jsonl", "out.csv"]


@pytest.mark.parametrize("name", [*FILES, "out/"])
def test_without_an_output_nothing_is_left(tmp_path: Path, name: str) -> None:
    with open_sink(f"{tmp_path}/{name}"):
        assert listing(tmp_path) == []
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", FILES)
def test_what_is_there_is_refused_before_any_work_and_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputExistsError, match="Use --force"):
        open_sink(tmp_path / name)
    assert (tmp_path / name).read_text() == "precious"
    with open_sink(tmp_path / name, force=True) as sink:
        sink.write(output())
    assert (tmp_path / name).read_bytes() != b"precious"
    assert listing(tmp_path) == [name]


@pytest.mark.parametrize("name", FILES)
def test_what_appeared_meanwhile_is_kept(tmp_path: Path, name: str) -> None:
    sink = open_sink(tmp_path / name)
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputExistsError):
        sink.write(output())
    sink.close()
    assert listing(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("name", [*FILES, "out/"])
def test_used_after_closing(tmp_path: Path, name: str) -> None:
    sink = open_sink(f"{tmp_path}/{name}")
    sink.write(output())
    sink.close()
    sink.close()
    with pytest.raises(ClosedError, match="out"):
        sink.write(output())


@pytest.mark.parametrize("name", [*FILES, "deeper/out/"])
def test_no_such_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="mkdir -p"):
        open_sink(f"{tmp_path}/missing/{name}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_usual_rights(tmp_path: Path, name: str) -> None:
    with open_sink(tmp_path / name) as sink:
        sink.write(output())
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    "uri", ["out.gif", "windows", "amqp://user:secret@broker/x.jsonl", "https://0.0.0.0:80/", ""]
)
def test_an_unknown_sink_lists_the_known_ones(uri: str) -> None:
    with pytest.raises(
        OutputError, match=r"no sink .* expected - or .*FOLDER/ or FILE.jsonl or FILE.csv or FILE.mp4"
    ) as caught:
        open_sink(uri)
    assert "secret" not in str(caught.value)
    assert all(form in str(caught.value) for form, _ in sink_help())


@pytest.mark.parametrize("name", ["frame.png", "frame.jpg"])
def test_a_sink_never_writes_over_its_source(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_bytes(cv2.imencode(source.suffix, solid("red"))[1].tobytes())
    before = source.read_bytes()
    for uri in (source, tmp_path):
        with (
            open_sink(uri, force=True) as sink,
            pytest.raises(OutputError, match="the file that the frames come from"),
        ):
            sink.write(output(path=source, source=str(source)))
    assert source.read_bytes() == before
    assert listing(tmp_path) == [name]


# video ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.avi", "OUT.MP4", "a %d:b.mp4"])
@pytest.mark.parametrize("fps", [None, 5.0, 29.97])
def test_a_video_has_the_frames_and_the_rate(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, fps: float | None
) -> None:
    write_all(open_sink(tmp_path / name, fps=fps), colour_cycle(7))
    frames = decode_video(tmp_path / name)
    assert [colour_of(frame) for frame in frames] == ["red", "green", "blue", "red", "green", "blue", "red"]
    capture = cv2.VideoCapture(str(tmp_path / name), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(fps or 25, rel=0.01)
    capture.release()
    assert listing(tmp_path) == [name]
    assert capfd.readouterr().err == ""


def test_a_video_appears_when_it_is_finished(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.mp4") as sink:
        sink.write(output())
        assert not (tmp_path / "out.mp4").exists()
        assert len(listing(tmp_path)) == 1
    assert listing(tmp_path) == ["out.mp4"]


def test_a_video_is_finished_after_an_error_elsewhere(tmp_path: Path) -> None:
    def interrupted() -> Iterator[NDArray[np.uint8]]:
        yield from colour_cycle(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_all(open_sink(tmp_path / "out.mp4"), interrupted())
    assert len(decode_video(tmp_path / "out.mp4")) == 2


def test_frames_of_another_size_are_fitted(tmp_path: Path) -> None:
    write_all(
        open_sink(tmp_path / "out.mp4"),
        [solid("red", (60, 81)), solid("green", (120, 60)), solid("blue", (9, 9))],
    )
    frames = decode_video(tmp_path / "out.mp4")
    assert [frame.shape for frame in frames] == [(60, 80, 3)] * 3
    assert [colour_of(frame[:, 30:50]) for frame in frames] == ["red", "green", "blue"]
    assert frames[1][:, :20].max() < 60  # black bars beside the tall frame


@pytest.mark.parametrize(
    ("hw", "inner"),
    [
        ((10, 20), (0, 10, 0, 20)),
        ((20, 20), (0, 10, 5, 15)),
        ((5, 20), (2, 7, 0, 20)),
        ((11, 21), (0, 10, 0, 20)),
    ],
)
def test_fitting_keeps_the_aspect_ratio(hw: tuple[int, int], inner: tuple[int, int, int, int]) -> None:
    expected = np.zeros((10, 20, 3), np.uint8)
    top, bottom, left, right = inner
    expected[top:bottom, left:right] = 200
    np.testing.assert_array_equal(fit(np.full((*hw, 3), 200, np.uint8), (10, 20)), expected)


@pytest.mark.parametrize("hw", [(1, 1), (2, 2), (1, 40), (37, 53)])
def test_small_and_odd_sizes(tmp_path: Path, hw: tuple[int, int]) -> None:
    write_all(open_sink(tmp_path / "out.mp4"), [solid("red", hw)] * 2)
    assert len(decode_video(tmp_path / "out.mp4")) == 2


def test_a_live_video_runs_by_the_clock(tmp_path: Path) -> None:
    captured = [100.0, 100.4, 100.42, 100.7, 5000.0]  # at 10 fps; the second is replaced, the last comes late
    colours = ["red", "blue", "green", "red", "green"]
    with open_sink(tmp_path / "out.mp4", fps=10, live=True) as sink:
        for colour, moment in zip(colours, captured, strict=True):
            sink.write(output(solid(colour), captured_at=moment))
    seen = [colour_of(frame) for frame in decode_video(tmp_path / "out.mp4")]
    assert seen == ["red"] * 4 + ["green"] * 3 + ["red"] * 20 + ["green"]


def test_a_video_of_a_file_has_every_frame_whenever_it_comes(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.mp4", fps=10) as sink:
        for moment in (100.0, 100.001, 300.0):
            sink.write(output(captured_at=moment))
    assert len(decode_video(tmp_path / "out.mp4")) == 3


@pytest.mark.parametrize("rate", [7.3, 12, 30, 59.94])
def test_places_of_frames_that_come_at_another_rate(rate: float) -> None:
    places = Places(30)
    filled = sum(places.until(1e6 + number / rate) for number in range(round(60 * rate)))
    assert filled == pytest.approx(60 * 30, abs=30 / rate + 1)  # a minute of frames is a minute of video


def test_codecs_that_opencv_lacks_are_named(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", codecs=["zzzz"])
    with pytest.raises(OutputError, match="64x48 at 25 fps, codecs zzzz"):
        sink.write(output())
    assert listing(tmp_path) == []


class FileSizeLimit:
    """A limit on the size of files in this process: a write beyond it fails, as on a full disk."""

    def __init__(self, limit_bytes: int) -> None:
        self.limits = (limit_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1])

    def __enter__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)

    def __exit__(self, *error: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limits[1], self.limits[1]))


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.avi"])
@pytest.mark.parametrize("hw", [(48, 64), (240, 320)])  # fails when the file is finished; fails on the way
def test_a_video_that_cannot_be_written_whole_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, hw: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    sink = open_sink(tmp_path / name)
    with (
        FileSizeLimit(60_000),
        pytest.raises(OutputError, match=f"cannot write .*{name}: got a failed write after"),
    ):
        write_all(sink, list(rng.integers(0, 256, (100, *hw, 3), np.uint8)))
    assert listing(tmp_path) == []
    with pytest.raises(ClosedError):
        sink.write(output())
    sink.close()
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(cv2.__version__ < "5", reason="OpenCV 4 does not say that a write failed")
def test_a_failed_write_is_noticed_on_the_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given: list[int] = []

    def noise() -> Iterator[NDArray[np.uint8]]:
        for index, image in enumerate(rng.integers(0, 256, (100, 240, 320, 3), np.uint8)):
            given.append(index)
            yield image

    sink = open_sink(tmp_path / "out.mp4")
    with FileSizeLimit(60_000), pytest.raises(OutputError, match="failed"):
        write_all(sink, noise())
    assert 1 < len(given) < 50


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 18 MB, 2 more than a video sink keeps free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=18m", "none", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"may not mount a file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.avi"])
def test_a_full_disk_ends_a_video_that_can_be_played(small_disk: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    sink = open_sink(small_disk / name)
    with pytest.raises(OutputError, match=f"recording .*{name} ended: got less than 16 MB") as caught:
        write_all(sink, [np.roll(noise, 7 * index, axis=0) for index in range(200)])
    count = len(decode_video(small_disk / name))
    assert 5 < count < 200
    assert f"It holds the first {count} frames" in str(caught.value)
    assert listing(small_disk) == [name]
    with pytest.raises(ClosedError):
        sink.write(output())


def test_room_is_left_for_the_index_of_a_long_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = video_sink.RESERVE_BYTES + 10 * video_sink.INDEX_BYTES
    monkeypatch.setattr(video_sink, "free_bytes", lambda path: room)
    with pytest.raises(OutputError, match=r"recording .* ended"):
        write_all(open_sink(tmp_path / "out.mp4"), colour_cycle(30))
    assert len(decode_video(tmp_path / "out.mp4")) == 11


def test_a_disk_that_is_full_already(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(17_900_000))
    with pytest.raises(OutputError, match=r"recording .* ended"):
        write_all(open_sink(small_disk / "out.mp4"), colour_cycle(3))
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(18 << 20))
    with pytest.raises(OutputError, match="No space left on device"):
        write_all(open_sink(small_disk / "out.jsonl"), colour_cycle(3))


# pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.JPEG"])
def test_one_picture(tmp_path: Path, name: str) -> None:
    write_all(open_sink(tmp_path / name), [solid("green")])
    picture = cv2.imread(str(tmp_path / name))
    assert picture is not None
    assert picture.shape == (48, 64, 3)
    assert colour_of(np.asarray(picture, np.uint8)) == "green"
    assert listing(tmp_path) == [name]


def test_a_second_frame_does_not_fit_into_one_picture(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"takes one picture.*--frames 1, or a folder .*/out/"):
        write_all(open_sink(tmp_path / "out.png"), colour_cycle(2))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png")), solid("red"))


def test_a_folder_of_pictures_is_numbered_for_a_video(tmp_path: Path) -> None:
    write_all(open_sink(f"{tmp_path}/out/"), colour_cycle(3))
    assert listing(tmp_path / "out") == ["000000.jpg", "000001.jpg", "000002.jpg"]
    picture = cv2.imread(str(tmp_path / "out" / "000002.jpg"))
    assert colour_of(np.asarray(picture, np.uint8)) == "blue"


def test_a_folder_of_pictures_keeps_the_names_of_images(tmp_path: Path) -> None:
    paths = ["a/cat.png", "b/cat.png", "a/cat.jpg", "c/cat.png", "x.heic", "y.PNG"]
    (tmp_path / "out").mkdir()
    with open_sink(tmp_path / "out") as sink:
        for path in paths:
            sink.write(output(path=Path(path)))
    assert listing(tmp_path / "out") == sorted(
        ["cat.png", "cat-1.png", "cat.jpg", "cat-2.png", "x.jpg", "y.PNG"]
    )


def test_a_folder_does_not_lose_pictures_of_an_earlier_run(tmp_path: Path) -> None:
    write_all(open_sink(f"{tmp_path}/out/"), [solid("red")])
    with pytest.raises(OutputExistsError, match=r"000000\.jpg exists"):
        write_all(open_sink(f"{tmp_path}/out/"), [solid("blue")])
    write_all(open_sink(f"{tmp_path}/out/", force=True), [solid("blue")])
    assert colour_of(np.asarray(cv2.imread(str(tmp_path / "out" / "000000.jpg")), np.uint8)) == "blue"


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="got a file, expected a folder"):
        open_sink(f"{tmp_path}/out/")


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with FileSizeLimit(100), pytest.raises(OutputError, match="File too large"):
        write_all(open_sink(tmp_path / "out.png"), [solid("red")])
    assert listing(tmp_path) == []


# JSON lines -----------------------------------------------------------------------------------------------


def test_json_lines_have_the_promised_form(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.jsonl") as sink:
        sink.write(output(index=7, source="rtsp://***@cam", score=0.75))
        sink.write(output(index=8))
    first, second = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(first) == {
        "index": 7,
        "source": "rtsp://***@cam",
        "captured_at": 12.5,
        "age_ms": 10.25,
        "dropped": 0,
        "result": {
            "classes": [{"id": 0, "label": "cat", "score": 0.75}, {"id": 1, "label": "dog", "score": 0.25}]
        },
    }
    assert json.loads(second)["index"] == 8


def test_json_lines_can_be_followed_while_they_are_written(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.jsonl") as sink:
        for count in range(1, 4):
            sink.write(output(index=count))
            text = (tmp_path / "out.jsonl").read_text()
            assert text.endswith("\n")
            assert len(text.splitlines()) == count


def test_json_lines_end_with_a_whole_line_when_the_disk_is_full(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "out.jsonl")
    with FileSizeLimit(1000), pytest.raises(OutputError, match=r"out\.jsonl: got File too large"):
        write_all(sink, colour_cycle(100))
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(len(lines)))
    assert len(lines) == 1000 // (len(lines[0]) + 1)
    sink.close()


def test_json_of_numbers_that_json_lacks(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.jsonl") as sink:
        sink.write(output(score=math.nan))
    row = json.loads(
        (tmp_path / "out.jsonl").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON")
    )
    assert row["result"]["classes"][0]["score"] is None


def test_stdout_gets_a_line_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stdout").open("w", buffering=1 << 16) as stdout:  # holds lines back, as a pipe's does
        monkeypatch.setattr(sys, "stdout", stdout)
        stdout.write("before\n")
        with open_sink("-") as sink:
            for index in range(3):
                sink.write(output(index=index))
                head, *lines = (tmp_path / "stdout").read_text().splitlines()
                assert head == "before"
                assert [json.loads(line)["index"] for line in lines] == list(range(index + 1))
        stdout.write("still open\n")


# CSV ------------------------------------------------------------------------------------------------------


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_csv_has_a_row_a_class(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.csv") as sink:
        sink.write(output(index=7, source='a "b", c', score=0.75))
        assert len(table(tmp_path / "out.csv")) == 2  # readable while it is written
        sink.write(output(index=8, score=math.nan))
    frame = {"source": 'a "b", c', "captured_at": "12.5", "age_ms": "10.25", "dropped": "0"}
    first, second, third, _ = table(tmp_path / "out.csv")
    assert first == {"index": "7", **frame, "id": "0", "label": "cat", "score": "0.75"}
    assert second == {"index": "7", **frame, "id": "1", "label": "dog", "score": "0.25"}
    assert third["index"] == "8"
    assert third["score"] == "nan"


def test_csv_has_a_row_a_box_and_none_where_there_is_none(tmp_path: Path) -> None:
    boxes = {"boxes_xyxy": [[1, 2, 3, 4.5], [5, 6, 7, 8]], "scores": [0.5, 0.25], "labels": ["a", "b,\nc"]}
    nothing: dict[str, Any] = {"boxes_xyxy": [], "scores": [], "labels": []}
    with open_sink(tmp_path / "out.csv") as sink:
        for index, result in enumerate([nothing, boxes, nothing, boxes]):
            sink.write(output(index=index, result=result))
    found = table(tmp_path / "out.csv")
    assert [row["index"] for row in found] == ["1", "1", "3", "3"]
    columns = ["x1", "y1", "x2", "y2", "scores", "labels"]
    assert [[row[key] for key in columns] for row in found[:2]] == [
        ["1", "2", "3", "4.5", "0.5", "a"],
        ["5", "6", "7", "8", "0.25", "b,\nc"],
    ]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"classes": []}, []),
        ({"embedding": [1.5, 2.0]}, [{"embedding": "[1.5,2.0]"}]),
        ({"outputs": {"y": {"values": [None]}}}, [{"outputs": '{"y":{"values":[null]}}'}]),
        ({"a": [1, 2], "b": [1]}, [{"a": "[1,2]", "b": "[1]"}]),
        ({"n": 2, "ids": [3], "xys": [[[1, 2]]]}, [{"n": 2, "ids": 3, "xys": "[[1,2]]"}]),
        ({}, [{}]),
    ],
)  # fmt: skip
def test_rows_of_any_result(result: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert rows(result) == expected


def test_csv_of_named_models(tmp_path: Path) -> None:
    made = output()
    with open_sink(tmp_path / "out.csv") as sink:
        sink.write(
            Output(made.result, made.frame, made.latency, results={"a": made.result, "b": made.result})
        )
    assert [(row["model"], row["label"]) for row in table(tmp_path / "out.csv")] == [
        ("a", "cat"),
        ("a", "dog"),
        ("b", "cat"),
        ("b", "dog"),
    ]


def test_csv_keeps_its_columns(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.csv")
    sink.write(output())
    with pytest.raises(OutputError, match=r"got columns .* embedding, expected .* id, label, score"):
        sink.write(output(result={"embedding": [1]}))
    assert len(table(tmp_path / "out.csv")) == 2


def test_csv_ends_with_the_rows_of_a_whole_frame_when_the_disk_is_full(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.csv")
    with FileSizeLimit(1000), pytest.raises(OutputError, match=r"out\.csv: got File too large"):
        write_all(sink, colour_cycle(100))
    found = table(tmp_path / "out.csv")
    assert len(found) > 10
    assert [row["index"] for row in found] == [str(index // 2) for index in range(len(found))]
    assert len(found) % 2 == 0


# callbacks ------------------------------------------------------------------------------------------------


def test_a_callback_gets_every_output() -> None:
    seen: list[int] = []
    with CallbackSink(lambda output: seen.append(output.frame.index), name="seen") as sink:
        sink.write(output(index=3))
        sink.write(output(index=4))
    assert seen == [3, 4]
    assert sink.name == "seen"
    assert not sink.lossy


def test_a_callback_that_fails_is_not_called_again() -> None:
    def divide(output: Output) -> None:
        calls.append(1 // output.frame.index)

    calls: list[int] = []
    sink = CallbackSink(divide)
    with pytest.raises(OutputError, match=r"callback .*divide failed: got ZeroDivisionError"):
        sink.write(output(index=0))
    with pytest.raises(ClosedError):
        sink.write(output(index=1))
    assert calls == []


def test_a_callback_may_end_the_run() -> None:
    def enough(output: Output) -> None:
        raise StopRequested

    with CallbackSink(enough) as sink, pytest.raises(StopRequested):
        sink.write(output())


# the shared one -------------------------------------------------------------------------------------------


def test_memory_sink_and_drawing_once(caplog: pytest.LogCaptureFixture) -> None:
    drawn: list[Result] = []

    def draw(image: NDArray[np.uint8], result: Result) -> None:
        drawn.append(result)
        image[:] = 9

    with caplog.at_level(logging.DEBUG), Source(MemoryReader([solid("red")])) as source, MemorySink() as sink:
        made = Output(output().result, next(source), Latency(0, 0, 0, 0, 0), draw)
        sink.write(made)
        assert drawn == []
        np.testing.assert_array_equal(made.annotated, np.full((48, 64, 3), 9))
        assert made.annotated is made.annotated
    assert drawn == [made.result]
    np.testing.assert_array_equal(made.frame.image, solid("red"))
    assert sink.outputs == [made]
    assert sink.closed


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 4)])
def test_annotated_pictures_have_three_channels(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 7, np.uint8)
    annotated = output(image).annotated
    np.testing.assert_array_equal(annotated, np.full((4, 5, 3), 7))
    annotated[:] = 1
    assert (image == 7).all()
