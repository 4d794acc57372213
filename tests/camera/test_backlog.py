from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecnn.camera import Capture
from edgecnn.camera.backlog import Backlog

IMAGE = np.zeros((1, 1, 3), np.uint8)


def stale(arrivals: list[float], times: list[float] | None = None) -> list[bool]:
    """For each frame, by when it arrived and its time by the stream's own clock."""
    backlog = Backlog()
    sources: Sequence[float | None] = times or [None] * len(arrivals)
    return [
        backlog.is_stale(Capture(IMAGE, at, "s", source_time=of))
        for at, of in zip(arrivals, sources, strict=True)
    ]


STEADY = [0.0, 0.1, 0.2, 0.3]


def test_a_steady_stream_is_new_with_jitter_too() -> None:
    arrivals = [0.0, 0.13, 0.19, 0.33, 0.35, 0.7, 0.71]
    assert not any(stale(arrivals))
    assert not any(stale(arrivals, [0.1 * number for number in range(7)]))


def test_frames_that_were_held_up_by_the_network_are_late_by_their_own_clock() -> None:
    """Two seconds without network; then what was sent meanwhile comes at once, and at last what is new."""
    arrivals = [*STEADY, 2.3, 2.301, 2.302, 2.303, 2.304, 2.4]
    times = [*STEADY, 0.4, 1.0, 1.5, 2.0, 2.2, 2.4]
    assert stale(arrivals, times) == [False] * 4 + [True] * 4 + [False] * 2  # 0.3 s late; 0.1 s


def test_frames_of_a_server_that_did_nothing_meanwhile_are_new() -> None:
    assert not any(stale([*STEADY, 2.3, 2.4], [*STEADY, 2.3, 2.4]))


def test_without_a_clock_the_first_after_a_gap_and_what_follows_at_once_are_old() -> None:
    arrivals = [*STEADY, 2.3, 2.301, 2.302, 2.4, 2.5]
    assert stale(arrivals) == [False] * 4 + [True] * 3 + [False] * 2


def test_a_clock_that_counts_frames_costs_a_second_at_most() -> None:
    """It stood still as long as the stream did, so that all that follows looks late, and is not."""
    after = [2.3 + 0.1 * number for number in range(30)]
    times = [0.4 + 0.1 * number for number in range(30)]
    found = stale([*STEADY, *after], [*STEADY, *times])[4:]
    assert found == [number <= 10 for number in range(30)]


def test_a_long_backlog_that_takes_longer_than_the_doubt_lasts() -> None:
    """Ten seconds were held up, and come five times as fast as they were made."""
    times = [0.4 + 0.1 * number for number in range(150)]
    arrivals = [max(10.3 + 0.02 * number, of) for number, of in enumerate(times)]
    found = stale([*STEADY, *arrivals], [*STEADY, *times])[4:]
    late = [at - of > 0.25 for at, of in zip(arrivals, times, strict=True)]
    assert found == late
    assert found.index(False) > 100


def test_a_slow_stream_has_no_gaps() -> None:
    assert not any(stale([0.0, 1.0, 2.0, 3.0, 5.5]))


def test_a_stream_that_becomes_slow_is_soon_known_to_be() -> None:
    arrivals = [0.04 * number for number in range(50)] + [3.0 + number for number in range(10)]
    assert not any(stale(arrivals)[55:])
