"""A pipeline's statistics for Prometheus, over HTTP.

    with MetricsServer(lambda: pipeline.stats, address="127.0.0.1:9100", telemetry=Telemetry()):
        for output in pipeline: ...

Nothing is collected for it: what a scrape shows is a snapshot that is taken for this scrape. Counters begin
at 0 with each pipeline, which Prometheus takes for a restart. Times are in seconds and sizes in bytes, as is
usual there. docs/service.md lists the names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from edgecnn.errors import BackendUnavailableError, OutputError
from edgecnn.pipeline import PipelineStats
from edgecnn.telemetry import Reading, Telemetry, named_apart

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["MetricsServer"]

_STATES = ("connecting", "streaming", "stalled", "reconnecting", "closed")
_QUANTILES = {"p50": "0.5", "p90": "0.9", "p99": "0.99"}


class MetricsServer:
    """Serves `http://HOST:PORT/metrics` from threads of its own until it is closed.

    Args:
        stats: gives the statistics of the moment; called from the server's threads.
        address: `PORT` or `HOST:PORT`; `[::1]:PORT` for IPv6. Without a host, only this machine is answered.
            Port 0 takes a free one.
        telemetry: where the machine's state is read, if it is wanted.
        info: labels of `edgecnn_info`: which model runs, and on what.

    Attributes:
        url: where the metrics are.

    Raises:
        BackendUnavailableError: prometheus_client is not installed.
        OutputError: the address is none, or not free.
    """

    def __init__(
        self,
        stats: Callable[[], PipelineStats],
        *,
        address: str,
        telemetry: Telemetry | None = None,
        info: Mapping[str, str] | None = None,
    ) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise BackendUnavailableError(
                "--metrics needs prometheus_client", remedy="pip install 'edgecnn[metrics]'"
            ) from error
        host, port = _host_and_port(address)
        registry = prometheus_client.CollectorRegistry()
        registry.register(_Collector(stats, telemetry, dict(info or {})))
        prometheus_client.ProcessCollector(
            registry=registry
        )  # memory, CPU time, descriptors, by their usual names
        try:
            self._server, self._thread = prometheus_client.start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            got = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise OutputError(f"cannot serve metrics on {address}", got=got) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving. A second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise OutputError("no address for metrics", got=address, expected="PORT or HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


class _Collector:
    """Turns a snapshot into metrics, whenever it is asked."""

    def __init__(
        self, stats: Callable[[], PipelineStats], telemetry: Telemetry | None, info: dict[str, str]
    ) -> None:
        self._stats = stats
        self._telemetry = telemetry
        self._info = info

    def describe(self) -> list[Metric]:
        """Nothing: prometheus_client would otherwise collect once, to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, called by prometheus_client for each scrape."""
        yield _family("edgecnn_info", "gauge", "Which model runs, and on what", [(self._info, 1)])
        yield from _pipeline(self._stats())
        if self._telemetry is not None:
            yield from _device(self._telemetry.read())


_Samples = Sequence[tuple[dict[str, str], "float | None"]]
_Family = tuple[str, str, _Samples]  # name, help text, samples


def _pipeline(stats: PipelineStats) -> Iterator[Metric]:
    sources = named_apart((source.name, source) for source in stats.sources)
    sinks = named_apart((sink.name, sink) for sink in stats.sinks)

    def each_source(attribute: str) -> _Samples:
        return [({"source": name}, getattr(source, attribute)) for name, source in sources.items()]

    def each_sink(attribute: str) -> _Samples:
        return [({"sink": name}, getattr(sink, attribute)) for name, sink in sinks.items()]

    counters: tuple[_Family, ...] = (
        ("frames_delivered", "Frames delivered with their results", [({}, stats.frames)]),
        ("frames_captured", "Frames taken from a source", each_source("frames")),
        ("frames_skipped", "Images that could not be read", each_source("skipped")),
        ("source_reconnects", "How often a source was opened again", each_source("reconnects")),
        ("sink_outputs_written", "Outputs that a sink took", each_sink("written")),
        ("sink_outputs_dropped", "Outputs that a sink was too slow for", each_sink("dropped")),
        (
            "frames_dropped",
            "Frames not delivered: let go by the source, replaced by a newer one, or past their deadline",
            [({"reason": reason}, count) for reason, count in stats.dropped_by.items()],
        ),
    )
    for name, text, samples in counters:
        yield _family(f"edgecnn_{name}", "counter", text, samples)
    yield _family(
        "edgecnn_source_state",
        "gauge",
        "1 for the state that a source is in",
        [
            ({"source": name, "state": state}, state == source.state)
            for name, source in sources.items()
            for state in _STATES
        ],
    )
    yield _family(
        "edgecnn_sink_failed",
        "gauge",
        "1 for a sink that was given up",
        [({"sink": name}, sink.failure is not None) for name, sink in sinks.items()],
    )
    yield _family(
        "edgecnn_frames_per_second",
        "gauge",
        "Over the last ten seconds: from the sources, and delivered",
        [({"direction": "in"}, stats.fps_in), ({"direction": "out"}, stats.fps_out)],
    )
    summaries: tuple[tuple[str, str, list[tuple[dict[str, str], dict[str, float] | None]]], ...] = (
        ("stage_seconds", "Time in a stage", [({"stage": name}, ms) for name, ms in stats.stages_ms.items()]),
        ("latency_seconds", "From a frame's capture until its result was there", [({}, stats.latency_ms)]),
        ("age_seconds", "How old a frame was when it was delivered", [({}, stats.age_ms)]),
        (
            "sink_write_seconds",
            "Time of one write",
            [({"sink": n}, sink.write_ms) for n, sink in sinks.items()],
        ),
    )
    for name, text, rows in summaries:
        quantiles: _Samples = [
            ({**labels, "quantile": quantile}, ms[key] / 1e3)
            for labels, ms in rows
            if ms is not None
            for key, quantile in _QUANTILES.items()
        ]
        yield _family(f"edgecnn_{name}", "summary", f"{text}, of the last frames", quantiles)


def _device(reading: Reading) -> Iterator[Metric]:
    def each(label: str, values: Mapping[str, float]) -> _Samples:
        return [({label: name}, value) for name, value in values.items()]

    def one(value: float | None, scale: float = 1) -> _Samples:
        return [({}, None if value is None else value * scale)]

    gauges: tuple[_Family, ...] = (
        ("power_watts", "Power by rail", each("rail", reading.power_w)),
        ("temperature_celsius", "Temperature by sensor", each("sensor", reading.temperatures_c)),
        ("cpu_load_ratio", "Busy share of all cores", one(reading.cpu_load)),
        ("gpu_load_ratio", "Busy share of the GPU", one(reading.gpu_load)),
        ("cpu_frequency_hertz", "Of the fastest core", one(reading.cpu_mhz, 1e6)),
        ("gpu_frequency_hertz", "Of the GPU", one(reading.gpu_mhz, 1e6)),
        ("memory_used_bytes", "Memory in use", one(reading.memory_used_mb, 1e6)),
        ("memory_size_bytes", "Memory there is", one(reading.memory_total_mb, 1e6)),
        ("cooling_level", "How far CPU or GPU are slowed down for heat", one(reading.cooling_level)),
    )
    for name, text, samples in gauges:
        yield _family(f"edgecnn_device_{name}", "gauge", text, samples)
    counts = each("kind", {kind: float(count) for kind, count in reading.overcurrent_counts.items()})
    yield _family("edgecnn_device_overcurrents", "counter", "Slowed down for the supply", counts)
    throttles = one(reading.throttle_count)
    yield _family("edgecnn_device_throttles", "counter", "Times that the CPU slowed down for heat", throttles)


def _family(name: str, kind: str, text: str, samples: _Samples) -> Metric:
    from prometheus_client import Metric

    family = Metric(name, text, kind)
    for labels, value in samples:
        if value is not None:
            family.add_sample(f"{name}_total" if kind == "counter" else name, labels, float(value))
    return family
