"""Threads, loss and return, with readers that behave as the test wants. Real servers: test_rtsp.py."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from time import monotonic

import numpy as np
import pytest

from edgecnn.camera import Capture, Source, SourceEvent, open_camera, read_stamp
from edgecnn.camera.events import Events
from edgecnn.camera.live import LiveReader
from edgecnn.camera.policy import ALL, LATEST, Policy, parse_policy
from edgecnn.camera.source import Skipped
from edgecnn.errors import ClosedError, SourceError

DEADLINE_S = 30.0
SMALL = np.zeros((4, 6, 3), np.uint8)


class Planned:
    """A camera that does what the test planned: gives a picture, waits for an event or seconds, fails,
    ends (None)."""

    name = "planned"
    live = True
    fps: float | None = None
    frame_count = None
    skipped: tuple[Skipped, ...] = ()

    def __init__(self, *steps: object) -> None:
        self.steps = iter(steps)
        self.closed = threading.Event()
        self.thread: threading.Thread | None = None

    def read(self) -> Capture | None:
        assert not self.closed.is_set()
        self.thread = threading.current_thread()
        for step in self.steps:
            if isinstance(step, threading.Event):
                step.wait(DEADLINE_S)
            elif isinstance(step, float):
                time.sleep(step)
            elif isinstance(step, Exception):
                raise step
            elif step is None:
                return None
            else:
                assert isinstance(step, np.ndarray)
                return Capture(step, monotonic(), self.name)
        threading.Event().wait()  # hangs for ever
        raise AssertionError

    def close(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()


def numbered(*numbers: int) -> list[np.ndarray]:
    return [np.full((4, 6, 3), number, np.uint8) for number in numbers]


def source_of(
    *readers: Planned | Exception,
    policy: Policy = ALL,
    reconnect: int | None = None,
    stall_s: float = 20.0,
    open_s: float = 20.0,
    on_event: Callable[[SourceEvent], None] | None = None,
) -> Source:
    """A source whose n-th connection is the n-th reader, or fails."""
    connections = iter(readers)

    def connect() -> Planned:
        reader = next(connections)
        if isinstance(reader, Exception):
            raise reader
        return reader

    events = Events("planned", "connecting")
    if on_event is not None:
        events.subscribe(on_event)
    reader = LiveReader(
        connect,
        events=events,
        policy=lambda reader: policy,
        reconnect=reconnect,
        stall_s=stall_s,
        open_s=open_s,
    )
    return Source(reader, policy=policy.name, events=events, interrupt=reader.interrupt)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + DEADLINE_S
    while not condition():
        assert monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_for(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("watch ")])


# Policies


def test_latest_gives_the_newest_and_counts_the_rest() -> None:
    more, end = threading.Event(), threading.Event()
    reader = Planned(*numbered(0, 1, 2, 3), more, *numbered(4), end)
    with source_of(reader, policy=LATEST) as source:
        wait_for(lambda: source._reader._count == 4)  # type: ignore[attr-defined]
        wait_for(lambda: next(iter(source._reader._channel._items))[0] == 3)  # type: ignore[attr-defined]
        first = next(source)
        more.set()
        second = next(source)
        assert [(frame.image[0, 0, 0], frame.index, frame.dropped) for frame in (first, second)] == [
            (3, 3, 3),
            (4, 4, 0),
        ]
        assert source.dropped == 3
        end.set()


def test_all_gives_every_frame_however_late_it_is_taken() -> None:
    with source_of(Planned(*numbered(*range(20)), None)) as source:
        frames = []
        for frame in source:
            time.sleep(0.002)
            frames.append((frame.index, int(frame.image[0, 0, 0]), frame.dropped))
        assert frames == [(number, number, 0) for number in range(20)]
        assert source.state == "closed"


def test_a_queue_reads_ahead_as_far_as_it_is_long() -> None:
    reader = Planned(*numbered(*range(20)), None)
    with source_of(reader, policy=parse_policy("queue=5")) as source:
        channel = source._reader._channel  # type: ignore[attr-defined]
        wait_for(lambda: len(channel) == 5)
        assert [int(frame.image[0, 0, 0]) for frame in source] == list(range(20))


@pytest.mark.parametrize("text", ["", "newest", "queue", "queue=0", "queue=10001", "queue=-1", "queue=²"])
def test_a_policy_that_there_is_not(text: str) -> None:
    with pytest.raises(ValueError, match="expected latest, all or queue=N"):
        parse_policy(text)
    with pytest.raises(
        SourceError, match=r"cannot open test:// with policy .* expected latest, all or queue=N"
    ):
        open_camera("test://", policy=text)


def test_options_out_of_range() -> None:
    with pytest.raises(SourceError, match="a bad reconnect: got -1, expected a whole number from 0, or None"):
        open_camera("test://", reconnect=-1)
    with pytest.raises(SourceError, match="a bad stall_s: got 0, expected more than 0"):
        open_camera("test://", stall_s=0)
    with pytest.raises(SourceError, match="a bad open_s"):
        open_camera("test://", open_s=float("nan"))


# Loss and return


def test_frames_go_on_after_an_error_and_everyone_is_told() -> None:
    events: list[SourceEvent] = []
    readers = (
        Planned(*numbered(0, 1), SourceError("it is gone", got="unplugged")),
        SourceError("it is not there", got="no device"),
        Planned(np.zeros((8, 10, 3), np.uint8), None),
    )
    with source_of(*readers, on_event=events.append) as source:
        shapes = [frame.image.shape[:2] for frame in source]
        assert source.reconnects == 1
    assert shapes == [(4, 6), (4, 6), (8, 10)]
    assert [(event.state, event.reason, event.attempt) for event in events] == [
        ("connecting", "", 0),
        ("streaming", "6x4", 0),
        ("reconnecting", "unplugged", 1),
        ("reconnecting", "no device", 2),
        ("streaming", "10x8, was 6x4", 0),
        ("closed", "its end", 0),
    ]
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert {event.source for event in events} == {"planned"}


def test_a_silent_camera_has_stalled_and_what_it_gives_afterwards_is_not_given_on() -> None:
    thaw = threading.Event()
    frozen = Planned(*numbered(0), thaw, *numbered(1, 2))
    events: list[SourceEvent] = []
    with source_of(frozen, Planned(*numbered(7), None), stall_s=0.2, on_event=events.append) as source:
        numbers = [int(next(source).image[0, 0, 0]), int(next(source).image[0, 0, 0])]
        assert numbers == [0, 7]
        assert not frozen.closed.is_set()  # its thread is in read, so nobody may close it
        thaw.set()
        assert frozen.closed.wait(DEADLINE_S)
        assert next(source, None) is None
    states = [event.state for event in events]
    assert states == ["connecting", "streaming", "stalled", "reconnecting", "streaming", "closed"]
    assert events[2].reason == "no frame for 0.2 s"


def test_a_size_that_changes_within_a_connection_is_told() -> None:
    events: list[SourceEvent] = []
    with source_of(Planned(SMALL, SMALL[:2], SMALL[:2], None), on_event=events.append) as source:
        assert len(list(source)) == 3
        assert source.reconnects == 0
    assert [event.reason for event in events] == ["", "6x4", "6x2, was 6x4", "its end"]


def test_a_user_who_takes_his_time_is_no_stall() -> None:
    events: list[SourceEvent] = []
    with source_of(Planned(*numbered(0, 1, 2, 3), None), stall_s=0.05, on_event=events.append) as source:
        next(source)
        time.sleep(0.3)  # far beyond the stall's time: the reading thread waits for us, not for its camera
        assert len(list(source)) == 3
    assert [event.state for event in events] == ["connecting", "streaming", "closed"]


def test_a_slow_camera_is_no_stall() -> None:
    reader = Planned(*numbered(0), 0.3, *numbered(1), None)
    reader.fps = 2.0
    with source_of(reader, stall_s=0.05) as source:
        assert len(list(source)) == 2
        assert source.reconnects == 0


def test_tries_are_limited() -> None:
    gone = SourceError("it is gone", got="no route to host")
    events: list[SourceEvent] = []
    with source_of(Planned(SMALL, gone), gone, gone, reconnect=2, on_event=events.append) as source:
        next(source)
        for _ in range(2):  # asked again, it says so again
            with pytest.raises(SourceError, match="no route to host, after 2 tries to connect again"):
                next(source)
    assert [event.attempt for event in events if event.state == "reconnecting"] == [1, 2]
    assert events[-1].state == "closed"


def test_what_waited_when_the_camera_was_lost_is_not_given_afterwards() -> None:
    reader = Planned(*numbered(0), SourceError("gone"))
    with source_of(reader, Planned(*numbered(1), None), policy=LATEST) as source:
        wait_for(lambda: source.state == "closed" or source.reconnects == 1)
        assert [int(frame.image[0, 0, 0]) for frame in source] == [1]
        assert source.dropped == 1


def test_connections_that_hang_for_ever_do_not_pile_up() -> None:
    release = threading.Event()
    made: list[Planned] = []

    def connect() -> Planned:
        made.append(Planned(SMALL, release, SMALL))
        return made[-1]

    events = Events("hangs", "connecting")
    reader = LiveReader(connect, events=events, policy=lambda reader: LATEST, stall_s=0.05)
    with Source(reader, policy="latest", events=events, interrupt=reader.interrupt):
        wait_for(lambda: len(made) == 4)
        time.sleep(1.5)  # longer than the longest wait before a try
        assert len(made) == 4
        release.set()
        wait_for(lambda: len(made) > 4)
    assert made[0].closed.is_set()


def test_no_try_at_all_gives_the_error_itself() -> None:
    gone = SourceError("it is gone")
    with source_of(Planned(SMALL, gone), reconnect=0) as source:
        next(source)
        with pytest.raises(SourceError) as caught:
            next(source)
    assert caught.value is gone


def test_tries_count_from_one_again_once_it_has_streamed_for_as_long_as_a_stall_lasts() -> None:
    gone = SourceError("gone")
    events: list[SourceEvent] = []
    readers = (
        Planned(SMALL, gone),
        Planned(SMALL, gone),
        Planned(SMALL, 0.3, SMALL, gone),
        Planned(SMALL, None),
    )
    readers[2].fps = 0.1  # so slow that the pause is no stall
    with source_of(*readers, reconnect=2, stall_s=0.2, open_s=9, on_event=events.append) as source:
        assert len(list(source)) == 5
    assert [event.attempt for event in events if event.state == "reconnecting"] == [1, 2, 1]


def test_the_first_connection_must_succeed() -> None:
    with pytest.raises(SourceError, match="no such host"):
        source_of(SourceError("cannot open it", got="no such host"))
    hangs = Planned()
    hangs.read = threading.Event().wait  # type: ignore[assignment]
    release = threading.Event()
    events = Events("slow", "connecting")

    def connect() -> Planned:
        release.wait(DEADLINE_S)
        return hangs

    with pytest.raises(SourceError, match=r"slow does not answer: got nothing within 0\.1 s"):
        LiveReader(connect, events=events, policy=lambda reader: ALL, open_s=0.1)
    assert events.state == "closed"
    release.set()
    assert hangs.closed.wait(DEADLINE_S)  # opened too late, and let go of


def test_what_lay_during_a_gap_is_not_given_as_new() -> None:
    """2 is the first after a gap, of which nobody knows how old it is."""
    more = threading.Event()
    reader = Planned(*numbered(0), 0.02, *numbered(1), more, *numbered(2), 0.02, *numbered(3), None)
    with source_of(reader, policy=LATEST) as source:
        wait_for(lambda: source._reader._count == 2)  # type: ignore[attr-defined]
        time.sleep(0.7)
        more.set()
        wait_for(lambda: source._reader._count == 4)  # type: ignore[attr-defined]
        assert [int(frame.image[0, 0, 0]) for frame in source] == [3]
        assert source.dropped == 3


# Closing


def test_closing_in_the_middle_of_a_read_that_hangs() -> None:
    release = threading.Event()
    reader = Planned(*numbered(0), release, *numbered(1))
    source = source_of(reader)
    next(source)
    waiting = threading.Thread(target=lambda: results.append(next(source, "nothing")))
    results: list[object] = []
    waiting.start()
    start = monotonic()
    source.close()
    assert monotonic() - start < 1
    waiting.join(DEADLINE_S)
    assert results == ["nothing"]
    with pytest.raises(ClosedError):
        next(source)
    assert not reader.closed.is_set()
    release.set()
    assert reader.closed.wait(DEADLINE_S)
    assert reader.thread is not None
    reader.thread.join(DEADLINE_S)
    assert not reader.thread.is_alive()


def test_closing_while_it_connects_again() -> None:
    gone = SourceError("gone")
    source = source_of(Planned(SMALL, gone), *[gone] * 1000)
    next(source)
    wait_for(lambda: source.state == "reconnecting")
    start = monotonic()
    source.close()
    assert monotonic() - start < 1
    assert source.state == "closed"


def test_closing_while_the_queue_is_full() -> None:
    reader = Planned(*numbered(*range(9)), None)
    source = source_of(reader)
    wait_for(lambda: reader.thread is not None)
    source.close()
    assert reader.closed.wait(DEADLINE_S)


def test_closing_from_a_subscriber() -> None:
    sources: list[Source] = []
    closed = threading.Event()

    def close(event: SourceEvent) -> None:
        if event.state == "reconnecting":
            sources[0].close()
            closed.set()

    first = threading.Event()
    source = source_of(Planned(SMALL, first, SourceError("gone")), on_event=close)
    sources.append(source)
    first.set()
    assert closed.wait(DEADLINE_S)
    assert source.state == "closed"


def test_a_file_whose_read_hangs_is_closed_too() -> None:
    """As on a network disk that is gone: read in the user's thread, which lets go of it afterwards."""
    release = threading.Event()
    reader = Planned(release, SMALL)
    source = Source(reader)
    results: list[object] = []
    waiting = threading.Thread(target=lambda: results.append(next(source, "nothing")))
    waiting.start()
    wait_for(lambda: reader.thread is not None)
    start = monotonic()
    source.close()
    assert monotonic() - start < 1
    assert not reader.closed.is_set()
    release.set()
    waiting.join(DEADLINE_S)
    assert reader.closed.is_set()
    assert results == ["nothing"]


def test_a_source_that_is_forgotten_is_closed() -> None:
    reader = Planned(*numbered(*range(9)), None)
    for _ in source_of(reader):
        break
    assert reader.closed.wait(DEADLINE_S)


# Events


def test_a_subscriber_that_fails_is_logged_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def fails(event: SourceEvent) -> None:
        raise RuntimeError("the subscriber's own")

    with open_camera("test://?fps=500&frames=3", policy="all", on_event=fails) as source:
        source.subscribe(lambda event: heard.append(event.state))
        assert len(list(source)) == 3
    assert heard[-1] == "closed"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the subscriber's own" in caplog.text


def test_a_subscriber_that_fails_and_cannot_be_hashed(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(list[str]):
        def __call__(self, event: SourceEvent) -> None:
            raise RuntimeError("the subscriber's own")

    with open_camera("test://?fps=500&frames=3", policy="all", on_event=Fails()) as source:
        assert len(list(source)) == 3
    assert len(caplog.records) == 1


def test_one_that_wants_to_hear_no_more() -> None:
    heard: list[str] = []

    def hear(event: SourceEvent) -> None:
        heard.append(event.state)

    with open_camera("test://?fps=500&frames=3", policy="all") as source:
        source.subscribe(hear)
        source.unsubscribe(hear)
        source.unsubscribe(hear)
        list(source)
    assert heard == []


# What the test pattern and files do through it


def test_the_test_pattern_keeps_its_rate_and_says_its_number() -> None:
    with open_camera("test://?width=320&height=240&fps=200") as source:
        assert (source.live, source.policy, source.fps) == (True, "latest", 200)
        for frame in itertools.islice(source, 20):
            stamp = read_stamp(frame.image)
            assert stamp is not None
            assert stamp.number == frame.index
            assert frame.captured_at - stamp.time + 1e-4 >= 0
            assert frame.source_time == pytest.approx(stamp.number / 200)


def test_every_frame_of_a_finite_pattern() -> None:
    with open_camera("test://?fps=1000&frames=40&policy=all") as source:
        assert source.frame_count == 40
        assert [frame.index for frame in source] == list(range(40))
