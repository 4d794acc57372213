from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import edgecnn.dataset as dataset
from edgecnn.camera.opening import open_camera
from edgecnn.camera.source import MemoryReader, Source
from edgecnn.dataset import FrameSet, open_frames
from edgecnn.errors import DataError
from tests.colours import colour_cycle, write_video


def write_images(folder: Path, count: int) -> Path:
    """Images whose blue is their number."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((4, 6, 3), (number, 0, 0), np.uint8))
    return folder


def numbers(frames: FrameSet) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


def test_images_in_natural_order_again_and_again(tmp_path: Path) -> None:
    frames = open_frames(write_images(tmp_path / "photos", 12))
    assert frames.count == 12
    assert numbers(frames) == list(range(12))
    assert numbers(frames) == list(range(12))


def test_one_image(tmp_path: Path) -> None:
    assert numbers(open_frames(write_images(tmp_path / "photos", 3) / "2.png")) == [2]


@pytest.mark.parametrize(
    ("limit", "expected"), [(3, [0, 4, 8]), (12, list(range(12))), (100, list(range(12)))]
)
def test_a_limit_takes_evenly_spaced_ones(limit: int, expected: list[int], tmp_path: Path) -> None:
    assert numbers(open_frames(write_images(tmp_path / "photos", 12), limit=limit)) == expected


@pytest.mark.parametrize("limit", [0, -1])
def test_a_senseless_limit(limit: int) -> None:
    with pytest.raises(DataError, match="limit"):
        open_frames("photos", limit=limit)


def test_no_images_is_an_error_and_never_random_data(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="no images in"):
        open_frames(tmp_path)
    with pytest.raises(DataError, match="no images in"):
        open_frames(f"{tmp_path}/*.jpg")
    with pytest.raises(DataError, match="does not exist"):
        open_frames(tmp_path / "missing")


def test_an_unreadable_image_is_skipped_and_told_once(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 5)
    (folder / "2.png").write_bytes(b"no image")
    (folder / "3.png").write_bytes(b"")
    frames = open_frames(folder)
    assert numbers(frames) == [0, 1, 4]
    assert numbers(frames) == [0, 1, 4]
    assert [(entry.path.name, bool(entry.reason)) for entry in frames.skipped] == [
        ("2.png", True),
        ("3.png", True),
    ]
    assert frames.count == 5


def test_a_single_unreadable_image_on_one_side_of_a_split_says_so(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 5)
    (folder / "4.png").write_bytes(b"no image")
    first, second = open_frames(folder).split()
    assert numbers(first) == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"none of these 1 images .* can be read.*4\.png"):
        numbers(second)


def test_skipped_of_both_sides_are_known_to_both(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 10)
    (folder / "1.png").write_bytes(b"no image")
    first, second = open_frames(folder).split()
    assert len(numbers(first)) == 7
    assert [entry.path.name for entry in second.skipped] == ["1.png"]


# Arrays


def save_array(path: Path, array: NDArray[np.generic]) -> Path:
    np.save(path, array)
    return path


def test_an_array_is_rgb_and_frames_are_bgr(tmp_path: Path) -> None:
    array = np.arange(5 * 4 * 6 * 3, dtype=np.uint8).reshape(5, 4, 6, 3)
    frames = list(open_frames(save_array(tmp_path / "a.npy", array)))
    np.testing.assert_array_equal(np.stack(frames), array[..., ::-1])
    assert all(frame.flags.c_contiguous for frame in frames)


def test_an_array_in_fortran_order(tmp_path: Path) -> None:
    array = np.asfortranarray(np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8))
    frames = list(open_frames(save_array(tmp_path / "a.npy", array)))
    np.testing.assert_array_equal(np.stack(frames), array[..., ::-1])


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((2, 4, 6, 3), np.float32), r"float32 \(2, 4, 6, 3\)"),
        (np.zeros((2, 3, 4, 6), np.uint8), r"uint8 \(2, 3, 4, 6\)"),
        (np.zeros((4, 6, 3), np.uint8), r"uint8 \(4, 6, 3\)"),
        (np.zeros((2, 4, 6, 1), np.uint8), r"uint8 \(2, 4, 6, 1\)"),
        (np.zeros((2, 4, 6, 3), np.int8), "int8"),
    ],
)
def test_an_array_of_another_kind(array: NDArray[np.generic], got: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"got {got}.*expected uint8 \(N, H, W, 3\) RGB"):
        open_frames(save_array(tmp_path / "a.npy", array))


def write_pickle(path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump(np.zeros((1, 2, 2, 3), np.uint8), file)


def write_truncated(path: Path) -> None:
    np.save(path, np.zeros((10, 8, 8, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:700])


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.zeros((1, 2, 2, 3), np.uint8))


@pytest.mark.parametrize(
    "write",
    [
        write_pickle,
        write_truncated,
        write_npz,
        lambda path: np.save(path, np.array([{"a": 1}], object), allow_pickle=True),
        lambda path: np.save(path, np.zeros((0, 4, 4, 3), np.uint8)),
        lambda path: path.touch(),
        lambda path: path.write_bytes(b"hello"),
        lambda path: path.mkdir(),
    ],
    ids=["pickle", "truncated", "npz", "objects", "no frames", "empty file", "text", "folder"],
)
def test_a_file_that_is_no_array(write: object, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"a\.npy"):
        open_frames(path)


def test_a_missing_array(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no array .*a\.npy"):
        open_frames(tmp_path / "a.npy")


# Splitting


def memory_set(count: int, *, contiguous: bool = False) -> FrameSet:
    return FrameSet(
        "memory",
        range(count),
        lambda positions: (np.full((1, 1, 3), position, np.uint8) for position in positions),
        contiguous=contiguous,
    )


@given(st.integers(2, 200), st.booleans())
def test_a_split_keeps_every_frame_on_one_side(count: int, contiguous: bool) -> None:
    first, second = memory_set(count, contiguous=contiguous).split()
    assert sorted([*first.positions, *second.positions]) == list(range(count))
    assert first.count >= 1
    assert 1 <= second.count <= max(1, count // 2)
    if count >= 10:
        assert abs(second.count - count / 5) <= 1
    if contiguous:
        assert max(first.positions) < min(second.positions)


def named(folder: Path, names: list[str]) -> Path:
    """A folder of images, each of which is as light as its place among `names`."""
    folder.mkdir()
    for level, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((4, 4, 3), level, np.uint8))
    return folder


def test_held_out_sources_are_spread(tmp_path: Path) -> None:
    folder = named(tmp_path / "photos", [f"{letter}.png" for letter in "abcdefghijk"])
    first, second = open_frames(folder).split()
    assert numbers(second) == [4, 9]
    assert numbers(first) == [0, 1, 2, 3, 5, 6, 7, 8, 10]


@pytest.mark.parametrize("pattern", ["{}-{}.png", "{}_{}.png", "{}{}.png", "{} ({}).png"])
def test_crops_of_one_photo_stay_on_one_side(pattern: str, tmp_path: Path) -> None:
    names = [pattern.format(photo, crop) for photo in "abcdefg" for crop in range(3)]
    first, second = open_frames(named(tmp_path / "crops", names)).split()
    assert {number // 3 for number in numbers(first)} == {0, 1, 2, 3, 5, 6}
    assert numbers(second) == [12, 13, 14]


def test_frames_of_one_video_in_a_folder_are_split_like_a_video(tmp_path: Path) -> None:
    folder = named(tmp_path / "frames", [f"clip-{number:03}.png" for number in range(10)])
    first, second = open_frames(folder).split()
    assert (numbers(first), numbers(second)) == (list(range(8)), [8, 9])


def test_a_source_that_is_most_of_the_frames_is_not_held_out(tmp_path: Path) -> None:
    names = [f"{letter}.png" for letter in "abcd"] + [f"z-{number}.png" for number in range(10, 40)]
    first, second = open_frames(named(tmp_path / "mixed", names)).split()
    assert first.count == 33
    assert second.count == 1


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_split(count: int) -> None:
    with pytest.raises(DataError, match=rf"too few frames in memory: got {count}.*--eval-data"):
        memory_set(count).split()


# Videos and cameras


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """20 frames that grow lighter: mp4v is lossy, and neighbours differ by 12 grey levels."""
    frames = [np.full((32, 32, 3), 12 * number, np.uint8) for number in range(20)]
    return write_video(tmp_path / "clip.mp4", frames)


def levels(frames: FrameSet) -> list[int]:
    return [round(float(frame.mean()) / 12) for frame in frames]


def test_a_video_is_taken_evenly_and_again(video: Path) -> None:
    frames = open_frames(video, limit=4)
    assert levels(frames) == [0, 5, 10, 15]
    assert levels(frames) == [0, 5, 10, 15]


def test_a_video_is_split_into_two_stretches(video: Path) -> None:
    first, second = open_frames(video, limit=10).split()
    assert levels(first) == list(range(0, 16, 2))
    assert levels(second) == [16, 18]


def test_a_video_that_announces_too_many_frames(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def boasting(path: Path) -> Source:
        source = open_camera(path)
        source.frame_count = 30
        return source

    monkeypatch.setattr(dataset, "open_camera", boasting)
    assert levels(open_frames(video, limit=6)) == [0, 5, 10, 15]


def test_a_video_that_announces_nothing_is_counted(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(path: Path) -> Source:
        source = open_camera(path)
        source.frame_count = None
        return source

    monkeypatch.setattr(dataset, "open_camera", silent)
    assert open_frames(video).count == 20


def test_a_camera_gives_its_next_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def camera(path: str) -> Source:
        opened.append(path)
        return Source(MemoryReader((frame for _ in iter(int, 1) for frame in colour_cycle(3)), live=True))

    monkeypatch.setattr(dataset, "open_camera", camera)
    frames = open_frames("0", limit=10)
    first, second = frames.split()
    assert (len(list(first)), len(list(second))) == (8, 2)
    assert opened == ["0", "0"]  # not before frames are wanted
    assert open_frames("0").count == dataset.DEFAULT_CAMERA_FRAMES


def test_a_camera_that_ends_early_gives_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "open_camera", lambda path: Source(MemoryReader(colour_cycle(4), live=True)))
    assert len(list(open_frames("0", limit=10))) == 4


def test_a_cameras_uri() -> None:
    frames = open_frames("test://?width=96&height=64&fps=500", limit=5)
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 5


# Memory

_PEAK = """
import resource, sys
from edgecnn.dataset import open_frames
total = sum(int(frame[0, 0, 0]) >= 0 for frame in open_frames(sys.argv[1]))
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8)  # 1 MB each
    peaks = {}
    for count in (20, 200):
        folder = tmp_path / str(count)
        folder.mkdir()
        cv2.imwrite(str(folder / "0.bmp"), image)
        for number in range(1, count):
            (folder / f"{number}.bmp").hardlink_to(folder / "0.bmp")
        command = [sys.executable, "-c", _PEAK, str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        frames, peak_kb = map(int, result.stdout.split())
        assert frames == count
        peaks[count] = peak_kb / 1024  # Linux counts in kilobytes
    # 180 more images are 180 MB; the interpreter's own peak moves by a few
    assert peaks[200] - peaks[20] < 20
