from __future__ import annotations

import itertools
import threading
from time import monotonic

import numpy as np
import pytest

from edgecnn.camera import Capture, MemoryReader, Source
from edgecnn.errors import ClosedError
from tests.colours import solid


class Scripted:
    """A reader that gives what the test planned."""

    name = "scripted"
    live = True
    fps = None
    frame_count = None
    skipped = ()

    def __init__(self, captures: list[Capture | None]) -> None:
        self.captures = captures
        self.closed = 0

    def read(self) -> Capture | None:
        return self.captures.pop(0)

    def close(self) -> None:
        self.closed += 1


def test_frames_are_numbered_and_stamped() -> None:
    images = [solid("red"), solid("green")]
    before = monotonic()
    with Source(MemoryReader(images, name="two", fps=10)) as source:
        assert (source.name, source.fps, source.frame_count, source.live) == ("two", 10, 2, False)
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 1]
    assert all(frame.image is image for frame, image in zip(frames, images, strict=True))
    assert before <= frames[0].captured_at <= frames[1].captured_at <= monotonic()
    assert [(frame.source, frame.dropped, frame.path) for frame in frames] == [("two", 0, None)] * 2


def test_age_grows() -> None:
    frame = next(Source(MemoryReader([solid("red")])))
    first = frame.age_ms
    assert 0 <= first <= frame.age_ms
    assert frame.age_ms <= (monotonic() - frame.captured_at) * 1e3


def test_dropped_frames_have_numbers_too() -> None:
    image = solid("red")
    source = Source(Scripted([Capture(image, 0.0, "s"), Capture(image, 1.0, "s", dropped=3), None]))
    assert [(frame.index, frame.dropped) for frame in source] == [(0, 0), (4, 3)]
    assert source.dropped == 3


def test_the_end_is_final() -> None:
    source = Source(Scripted([None, Capture(solid("red"), 0.0, "s")]))
    assert list(source) == []
    assert list(source) == []  # a reader is not asked again after its end


def test_closing_twice_closes_once_and_reading_then_says_so() -> None:
    reader = Scripted([Capture(solid("red"), 0.0, "s")])
    with Source(reader) as source:
        source.close()
    assert reader.closed == 1
    with pytest.raises(ClosedError, match="scripted is closed"):
        next(source)


def test_closing_waits_for_the_read_under_way() -> None:
    reading, proceed = threading.Event(), threading.Event()
    log: list[str] = []

    class Slow(Scripted):
        def read(self) -> Capture | None:
            reading.set()
            proceed.wait()
            log.append("read")
            return super().read()

        def close(self) -> None:
            log.append("closed")

    source = Source(Slow([Capture(solid("red"), 0.0, "s")]))
    reader = threading.Thread(target=lambda: next(source, None))
    reader.start()
    reading.wait()
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join(0.05)  # were it not to wait, it would be done by now
    proceed.set()
    reader.join()
    closer.join()
    assert log == ["read", "closed"]


def test_memory_never_has_to_end() -> None:
    source = Source(MemoryReader(itertools.repeat(np.zeros((2, 2, 3), np.uint8))))
    assert source.frame_count is None
    assert [frame.index for frame in itertools.islice(source, 3)] == [0, 1, 2]
