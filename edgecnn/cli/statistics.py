"""How a pipeline does, for people: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING

from edgecnn.cli.common import printable, say
from edgecnn.cli.systemd import ServiceManager
from edgecnn.telemetry import Reading, Telemetry

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgecnn.pipeline import PipelineStats

__all__ = ["LINE_EVERY_S", "monitored", "stats_line", "stats_table"]

LINE_EVERY_S = 10.0
"""How often there is a line, and a status for systemd, unless somebody says otherwise."""

_TABLE_EVERY_S = 0.5
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def monitored(
    stats: Callable[[], PipelineStats],
    manager: ServiceManager,
    *,
    title: str,
    show: bool,
    every_s: float | None,
) -> Iterator[None]:
    """Show statistics and feed systemd's watchdog while the block runs, from a thread of its own.

    Args:
        stats: gives the statistics of the moment.
        manager: is told that the service is alive while frames flow, or while no source has any.
        title: of the table.
        show: whether to show anything at all: a table on a terminal, lines elsewhere.
        every_s: seconds between lines, which then replace the table too.
    """
    ended = threading.Event()
    with contextlib.ExitStack() as opened:
        telemetry = Telemetry()
        jobs: list[tuple[float, Callable[[], None]]] = []
        if show and every_s is None and sys.stderr.isatty():
            jobs.append((_TABLE_EVERY_S, _live_table(opened, stats, telemetry, title)))
        elif show:
            jobs.append((every_s or LINE_EVERY_S, lambda: say(stats_line(stats(), telemetry.read()))))
        if manager.watchdog_s is not None:
            jobs.append((manager.watchdog_s / 3, _watchdog(stats, manager)))
        if manager.listening:
            jobs.append((LINE_EVERY_S, lambda: manager.status(stats_line(stats(), None))))
        if jobs:
            thread = threading.Thread(target=_work, args=(jobs, ended), name="edgecnn-monitor", daemon=True)
            thread.start()
            opened.callback(thread.join)
            opened.callback(ended.set)
        yield


def _work(jobs: list[tuple[float, Callable[[], None]]], ended: threading.Event) -> None:
    """Do each job again and again, every so many seconds."""
    due = [monotonic() + every_s for every_s, _ in jobs]
    while not ended.wait(max(0.0, min(due) - monotonic())):
        for index, (every_s, job) in enumerate(jobs):
            if monotonic() >= due[index]:
                due[index] = monotonic() + every_s
                try:
                    job()
                except Exception:  # the display of a service is no reason to end it
                    _log.exception("the statistics cannot be shown")


def _watchdog(stats: Callable[[], PipelineStats], manager: ServiceManager) -> Callable[[], None]:
    """Feeds the watchdog, unless a source gives frames and none comes out."""
    delivered = -1

    def feed() -> None:
        nonlocal delivered
        now = stats()
        streaming = any(source.state == "streaming" for source in now.sources)
        if now.frames > delivered or not streaming:
            manager.alive()
        delivered = now.frames

    return feed


def _live_table(
    opened: contextlib.ExitStack, stats: Callable[[], PipelineStats], telemetry: Telemetry, title: str
) -> Callable[[], None]:
    from rich.console import Console
    from rich.live import Live

    def draw() -> None:
        live.update(stats_table(stats(), telemetry.read(), title), refresh=True)

    live = opened.enter_context(Live(console=Console(stderr=True), auto_refresh=False))
    draw()
    opened.callback(draw)  # what stays on the terminal is the end
    return draw


def stats_line(stats: PipelineStats, reading: Reading | None) -> str:
    """The statistics in one line."""
    parts = [f"{stats.frames} frames"]
    for label, fps in (("in", stats.fps_in), ("out", stats.fps_out)):
        if fps is not None:
            parts.append(f"{fps:.1f} fps {label}")
    if stats.dropped:
        parts.append(f"{stats.dropped} dropped")
    if stats.skipped:
        parts.append(f"{stats.skipped} skipped")
    if stats.age_ms is not None:
        parts.append(f"age {stats.age_ms['p50']:.0f} ms, p99 {stats.age_ms['p99']:.0f}")
    parts += [f"{source.name} {source.state}" for source in stats.sources if source.state != "streaming"]
    if stats.reconnects:
        parts.append(f"{stats.reconnects} reconnects")
    parts += [f"{name} failed" for name in stats.failures]
    if stats.rss_mb is not None:
        parts.append(f"{stats.rss_mb:.0f} MB")
    return "; ".join(parts + (_machine(reading) if reading else []))


def stats_table(stats: PipelineStats, reading: Reading, title: str) -> RenderableType:
    """The statistics in full, for a terminal."""
    from rich.console import Group
    from rich.text import Text

    # not by stats_line: every number keeps its place while it changes
    reasons = ", ".join(f"{count} {reason}" for reason, count in stats.dropped_by.items() if count)
    memory = "" if stats.rss_mb is None else f"   {stats.rss_mb:.0f} MB"
    lines = [
        f"{stats.frames} frames   in {_number(stats.fps_in)} fps   out {_number(stats.fps_out)} fps{memory}",
        f"dropped {stats.dropped}{f' ({reasons})' if reasons else ''}   skipped {stats.skipped}",
    ]
    times = {**stats.stages_ms, "frame to result": stats.latency_ms, "age at delivery": stats.age_ms}
    parts: list[RenderableType] = [Text(printable(title), style="bold"), *map(Text, lines)]
    parts.append(
        _table(("ms", "p50", "p90", "p99"), [[name, *_times(ms)] for name, ms in times.items() if ms])
    )
    parts.append(
        _table(
            ("source", "state", "frames", "dropped", "reconnects"),
            [[s.name, s.state, s.frames, s.dropped, s.reconnects] for s in stats.sources],
        )
    )
    if stats.sinks:
        parts.append(
            _table(
                ("sink", "written", "dropped", "write ms p50", "p99", ""),
                [
                    [s.name, s.written, s.dropped, *(_times(s.write_ms)[::2]), s.failure or ""]
                    for s in stats.sinks
                ],
            )
        )
    if machine := _machine(reading):
        parts.append(Text("   ".join(machine)))
    return Group(*parts)


def _table(header: tuple[str, ...], rows: list[list[object]]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(header):
        # numbers to the right, names to the left
        right = bool(rows) and all(str(row[index])[:1].isdigit() or row[index] == "–" for row in rows)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    return table


def _machine(reading: Reading) -> list[str]:
    """What the machine says of itself, in words."""
    parts = []
    if reading.board_power_w is not None:
        parts.append(f"{reading.board_power_w:.1f} W")
    elif reading.power_w:
        parts.append(", ".join(f"{name} {watts:.1f} W" for name, watts in reading.power_w.items()))
    if reading.temperature_c is not None:
        parts.append(f"{reading.temperature_c:.0f} °C")
    for label, load, mhz in (
        ("CPU", reading.cpu_load, reading.cpu_mhz),
        ("GPU", reading.gpu_load, reading.gpu_mhz),
    ):
        known = [f"{load:.0%}" if load is not None else "", f"{mhz:.0f} MHz" if mhz is not None else ""]
        if any(known):
            parts.append(" ".join(filter(None, (label, *known))))
    if reading.throttled:
        parts.append("throttled")
    if reading.power_mode is not None:
        parts.append(f"mode {reading.power_mode}")
    return parts


def _times(ms: Mapping[str, float] | None) -> list[str]:
    return [_number(None if ms is None else ms[name], 2) for name in ("p50", "p90", "p99")]


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
