from __future__ import annotations

import gc
import threading
import weakref

import pytest

from edgecnn.channel import Ended
from edgecnn.pipeline.lanes import Lanes


def test_lanes_have_their_turns() -> None:
    lanes: Lanes[int] = Lanes(["all"] * 3, [9] * 3)
    for lane, count in enumerate((4, 1, 2)):
        for number in range(count):
            lanes.put(lane, number)
    assert [lanes.get() for _ in range(7)] == [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (0, 3)]
    with pytest.raises(TimeoutError):
        lanes.get(timeout=0)
    with pytest.raises(TimeoutError):
        lanes.get(timeout=0.01)


def test_only_some_lanes_may_have_their_turn() -> None:
    lanes: Lanes[str] = Lanes(["newest"] * 3)
    for lane, item in enumerate("abc"):
        lanes.put(lane, item)
    assert lanes.get(among=lambda: (2,)) == (2, "c")
    with pytest.raises(TimeoutError):
        lanes.get(timeout=0, among=lambda: (2,))
    with pytest.raises(TimeoutError):
        lanes.get(timeout=0, among=lambda: ())
    assert [lanes.get(), lanes.get()] == [(0, "a"), (1, "b")]


def test_who_waits_looks_again_when_woken() -> None:
    lanes: Lanes[str] = Lanes(["all"] * 2)
    lanes.put(0, "a")
    allowed: list[int] = []
    looked = threading.Event()

    def among() -> list[int]:
        looked.set()
        return allowed

    got: list[tuple[int, str]] = []
    reader = threading.Thread(target=lambda: got.append(lanes.get(among=among)), daemon=True)
    reader.start()
    assert looked.wait(60)
    allowed.append(0)
    lanes.wake()
    reader.join(60)
    assert got == [(0, "a")]


def test_each_lane_keeps_what_it_is_told_to() -> None:
    lanes: Lanes[int] = Lanes(["newest", "all"], [1, 2])
    for number in range(3):
        lanes.put(0, number)
    for number in range(2):
        lanes.put(1, number)
    assert [lanes.get() for _ in range(3)] == [(0, 2), (1, 0), (1, 1)]
    assert lanes.dropped == 2


@pytest.mark.parametrize("count", [1, 3])
def test_the_end_comes_when_all_have_ended(count: int) -> None:
    lanes: Lanes[int] = Lanes(["all"] * count)
    lanes.put(0, 7)
    for lane in range(count):
        lanes.end(lane)
    assert lanes.get() == (0, 7)
    for _ in range(2):
        with pytest.raises(Ended):
            lanes.get()


def test_one_that_fails_ends_nothing_while_others_go_on() -> None:
    lanes: Lanes[int] = Lanes(["all"] * 3)
    lanes.end(1, OSError("the cable"))
    lanes.end(2, OSError("the other cable"))
    lanes.put(0, 7)
    assert lanes.get() == (0, 7)
    with pytest.raises(TimeoutError):
        lanes.get(timeout=0)
    lanes.end(0)
    for _ in range(2):
        with pytest.raises(OSError, match="the cable"):
            lanes.get(among=lambda: ())


def test_a_lane_that_failed_keeps_nothing_of_what_comes_through_the_others() -> None:
    class Item:
        pass

    lanes: Lanes[Item] = Lanes(["all"] * 2)
    lanes.end(1, OSError("the cable"))
    items = [Item() for _ in range(9)]
    seen = [weakref.ref(item) for item in items]
    for item in items:
        lanes.put(0, item)
        lanes.get()
    del item, items
    gc.collect()
    assert [one() for one in seen] == [None] * 9


@pytest.mark.parametrize("count", [1, 3])
def test_closing_lets_everyone_go(count: int) -> None:
    lanes: Lanes[int] = Lanes(["all"] * count)
    ended = []

    def wait() -> None:
        with pytest.raises(Ended):
            lanes.get(among=lambda: ())
        ended.append(1)

    readers = [threading.Thread(target=wait, daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    lanes.close()
    for reader in readers:
        reader.join(60)
    assert len(ended) == 2
