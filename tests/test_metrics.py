from __future__ import annotations

import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from edgecnn.errors import BackendUnavailableError, OutputError
from edgecnn.metrics import MetricsServer
from edgecnn.pipeline import PipelineStats, SinkStats, SourceStats
from edgecnn.telemetry import Telemetry
from tests.test_telemetry import ORIN_NANO, tree

MS = {"p50": 1.0, "p90": 2.0, "p99": 30.0, "mean": 1.5}


def source(name: str, **changes: object) -> SourceStats:
    values: dict[str, object] = {
        "name": name, "state": "streaming", "frames": 9, "dropped": 2, "skipped": 0, "reconnects": 1,
    }  # fmt: skip
    return SourceStats(**{**values, **changes})  # type: ignore[arg-type]


STATS = PipelineStats(
    frames=7,
    skipped=3,
    dropped=6,
    dropped_by={"source": 4, "pipeline": 1, "deadline": 1},
    seconds=2.5,
    fps_in=30.0,
    fps_out=None,
    latency_ms=MS,
    age_ms=MS,
    stages_ms={"capture": MS, "infer": MS},
    sources=(source("rtsp://a"), source('odd "name"\\ \n', state="stalled"), source("rtsp://a", frames=1)),
    sinks=(
        SinkStats(name="out.mp4", written=7, dropped=0, write_ms=MS, failure=None),
        SinkStats(name="mqtt://b", written=1, dropped=5, write_ms=None, failure="gone"),
    ),
    failures={"mqtt://b": "gone"},
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MetricsServer]:
    telemetry = Telemetry(tree(tmp_path, ORIN_NANO))
    info = {"model": "m.onnx", "backend": "onnxruntime"}
    with MetricsServer(lambda: STATS, address="0", telemetry=telemetry, info=info) as opened:
        yield opened


def scraped(url: str, accept: str = "text/plain") -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept})) as reply:
        return str(reply.read().decode())


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Sample's name and labels → value, as Prometheus' own parser reads them."""
    samples = [sample for family in parse_text(text) for sample in family.samples]
    keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]
    assert len(set(keys)) == len(keys), "a series is there twice"
    return {key: sample.value for key, sample in zip(keys, samples, strict=True)}


def test_what_prometheus_reads(server: MetricsServer) -> None:
    read = values(scraped(server.url))

    def value(name: str, **labels: str) -> float:
        return read[f"edgecnn_{name}", tuple(sorted(labels.items()))]

    assert value("info", model="m.onnx", backend="onnxruntime") == 1
    assert value("frames_delivered_total") == 7
    assert value("frames_captured_total", source="rtsp://a") == 9
    assert value("frames_captured_total", source="rtsp://a-2") == 1
    assert value("frames_dropped_total", reason="deadline") == 1
    assert value("source_reconnects_total", source="rtsp://a") == 1
    assert value("source_state", source='odd "name"\\ \n', state="stalled") == 1
    assert value("source_state", source='odd "name"\\ \n', state="streaming") == 0
    assert value("sink_outputs_dropped_total", sink="mqtt://b") == 5
    assert (value("sink_failed", sink="mqtt://b"), value("sink_failed", sink="out.mp4")) == (1, 0)
    assert value("frames_per_second", direction="in") == 30
    assert ("edgecnn_frames_per_second", (("direction", "out"),)) not in read  # not known yet
    assert value("stage_seconds", stage="infer", quantile="0.99") == 0.03
    assert value("age_seconds", quantile="0.5") == 0.001
    assert value("sink_write_seconds", sink="out.mp4", quantile="0.9") == 0.002
    assert value("device_power_watts", rail="VDD_IN") == 6
    assert value("device_temperature_celsius", sensor="tj-thermal") == 52
    assert value("device_gpu_frequency_hertz") == 918e6
    assert value("device_memory_size_bytes") == 7990e6
    assert value("device_overcurrents_total", kind="oc3") == 15
    assert read["process_resident_memory_bytes", ()] > 1e6


def test_types_and_names_keep_the_conventions(server: MetricsServer) -> None:
    """As promlint asks: counters, and nothing else, end in `_total`; base units; a help text for each."""
    families = [family for family in parse_text(scraped(server.url)) if family.name.startswith("edgecnn")]
    assert len(families) > 20
    for family in families:
        assert family.documentation
        assert family.type in ("counter", "gauge", "summary")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert ("quantile" in sample.labels) == (family.type == "summary")
        assert not family.name.endswith(("_ms", "_mb", "_mhz", "_percent"))


def test_every_name_is_documented(server: MetricsServer) -> None:
    text = Path(__file__).parents[1].joinpath("docs/service.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(edgecnn_\w+)`", text))
    assert documented == set(re.findall(r"^# TYPE (edgecnn_\w+)", scraped(server.url), re.MULTILINE))


def test_openmetrics_too(server: MetricsServer) -> None:
    text = scraped(server.url, "application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert {"edgecnn_frames_delivered", "edgecnn_stage_seconds", "edgecnn_device_power_watts"} <= names


def test_every_scrape_is_of_its_moment_and_closing_ends_it() -> None:
    asked: list[int] = []

    def stats() -> PipelineStats:
        asked.append(1)
        return STATS

    server = MetricsServer(stats, address="127.0.0.1:0")
    assert asked == []
    for _ in range(3):
        assert "edgecnn_frames_delivered_total 7.0" in scraped(server.url)
    assert len(asked) == 3
    assert "edgecnn_device" not in scraped(server.url)
    server.close()
    server.close()
    with pytest.raises(OSError, match="refused"):
        scraped(server.url)
    assert not [thread for thread in threading.enumerate() if "serve_forever" in thread.name]


def test_only_this_machine_is_answered_unless_told_otherwise() -> None:
    with MetricsServer(lambda: STATS, address="0") as server:
        assert server.url.startswith("http://127.0.0.1:")
    with MetricsServer(lambda: STATS, address="[::1]:0") as server:
        assert server.url.startswith("http://[::1]:")
        assert "edgecnn_frames_delivered_total" in scraped(server.url)


@pytest.mark.parametrize("address", ["", "x", "host:", "127.0.0.1", ":70000", "1.2.3.4:²"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(OutputError, match=r"no address for metrics.*expected PORT or HOST:PORT"):
        MetricsServer(lambda: STATS, address=address)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"cannot serve metrics on {port}: got Address already in use"):
            MetricsServer(lambda: STATS, address=str(port))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'edgecnn\[metrics\]'"):
        MetricsServer(lambda: STATS, address="0")
