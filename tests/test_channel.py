from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgecnn.channel import Channel, Ended


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def put_all(channel: Channel[int], numbers: Iterable[int]) -> None:
    for number in numbers:
        channel.put(number)


def drain(channel: Channel[int]) -> list[int]:
    got = []
    try:
        while True:
            got.append(channel.get(timeout=60))
    except Ended:
        return got


def test_items_come_out_in_order() -> None:
    channel: Channel[int] = Channel(3)
    for number in range(3):
        assert channel.put(number) is None
    assert len(channel) == 3
    assert [channel.get() for _ in range(3)] == [0, 1, 2]
    assert channel.dropped == 0


def test_newest_drops_the_oldest_and_gives_it_back() -> None:
    channel: Channel[int] = Channel(2, keep="newest")
    assert [channel.put(number) for number in range(5)] == [None, None, 0, 1, 2]
    assert channel.dropped == 3
    assert [channel.get(), channel.get()] == [3, 4]


def test_all_waits_for_room_and_loses_nothing() -> None:
    channel: Channel[int] = Channel(1)

    def write() -> None:
        for number in range(1000):
            channel.put(number)
        channel.end()

    writer = in_thread(write)
    got = drain(channel)
    writer.join(60)
    assert got == list(range(1000))


def test_many_writers_and_readers_hand_over_each_item_once() -> None:
    channel: Channel[int] = Channel(4)

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(drain, channel) for _ in range(3)]
        writers = [pool.submit(put_all, channel, range(start, start + 300)) for start in (0, 300, 600)]
        for writer in writers:
            writer.result(60)
        channel.end()
        got = sorted(number for reader in readers for number in reader.result(60))
    assert got == list(range(900))


def test_waiting_ends_in_time() -> None:
    with pytest.raises(TimeoutError):
        Channel[int]().get(timeout=0.01)


def test_an_ended_channel_is_emptied_first_and_then_raises_the_writers_error() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.end(OSError("the cable"))
    channel.end()  # a second one changes nothing
    assert channel.get() == 1
    for _ in range(2):
        with pytest.raises(OSError, match="the cable"):
            channel.get()
    with pytest.raises(Ended):
        channel.put(2)


@pytest.mark.parametrize("end", [Channel.close, Channel.end])
def test_whoever_waits_is_let_go(end: Callable[[Channel[int]], None]) -> None:
    empty: Channel[int] = Channel()
    full: Channel[int] = Channel()
    full.put(1)
    raised = []

    def expect(call: Callable[[], object]) -> None:
        with pytest.raises(Ended):
            call()
        raised.append(call)

    threads = [in_thread(lambda: expect(empty.get)), in_thread(lambda: expect(lambda: full.put(2)))]
    end(empty)
    end(full)
    for thread in threads:
        thread.join(60)
    assert len(raised) == 2


def test_a_closed_channel_holds_nothing() -> None:
    channel: Channel[int] = Channel()
    channel.put(1)
    channel.end(OSError("not raised"))
    channel.close()
    assert len(channel) == 0
    with pytest.raises(Ended):
        channel.get()
    with pytest.raises(Ended):
        channel.put(1)


def test_a_channel_holds_something() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Channel(0)
