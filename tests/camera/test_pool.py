from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from edgecnn.camera import open_camera
from edgecnn.camera.pool import SIZE, FramePool
from tests.colours import colour_cycle, colour_of, write_video


@pytest.fixture
def pool() -> FramePool:
    made = FramePool()
    made.remember(np.zeros((4, 6, 3), np.uint8))
    return made


def test_what_nobody_holds_is_given_again(pool: FramePool) -> None:
    first = pool.take()
    assert first is not None
    address = id(first)
    assert pool.take() is None
    del first
    again = pool.take()
    assert id(again) == address


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array[1:, ::-1],
        lambda array: array.reshape(-1)[3:].view(np.int8),
        memoryview,
        lambda array: np.frombuffer(array, np.uint8),
        lambda array: {"frame": [array]},
    ],
)
def test_what_is_held_in_any_way_is_not(pool: FramePool, hold: object) -> None:
    assert callable(hold)
    held = hold(pool.take())
    assert pool.take() is None
    del held
    assert pool.take() is not None


def test_another_thread_holds_it_too(pool: FramePool) -> None:
    ready, proceed = threading.Event(), threading.Event()

    def keep(array: object) -> None:
        ready.set()
        proceed.wait()
        del array

    thread = threading.Thread(target=keep, args=(pool.take(),))
    thread.start()
    ready.wait()
    assert pool.take() is None
    proceed.set()
    thread.join()
    del thread
    assert pool.take() is not None


def test_it_forgets_what_is_held_for_long_and_other_sizes(pool: FramePool) -> None:
    held = [np.full((4, 6, 3), number, np.uint8) for number in range(SIZE + 3)]
    for array in held:
        pool.remember(array)
        pool.remember(array)
    assert pool.take() is None
    del array, held[SIZE]
    assert pool.take() is not None
    pool.remember(np.zeros((2, 2, 3), np.uint8))
    again = pool.take()
    assert again is not None
    assert again.shape == (2, 2, 3)


def test_a_videos_frames_need_few_arrays_and_keep_what_they_show(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", colour_cycle(30))
    with open_camera(video) as source:
        addresses = {frame.image.__array_interface__["data"][0] for frame in source}
    assert len(addresses) <= 3
    with open_camera(video) as source:
        views = [frame.image[::2] for frame in source]
    assert [colour_of(view) for view in views] == ["red", "green", "blue"] * 10
