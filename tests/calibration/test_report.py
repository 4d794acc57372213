"""The calibration report: all sections, nothing from outside, and names that are no markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edgecnn.calibration import calibrate
from edgecnn.calibration.mixed import TradeoffPoint
from edgecnn.calibration.observers import observe
from edgecnn.calibration.report import _falls
from edgecnn.calibration.report_plots import Point, histogram, saturated, tradeoff_plot
from edgecnn.cli import main
from tests.networks import Net, frames, graph_of, save, spec

_VOID = {"meta", "br"}
HOSTILE = '</h3><script src="https://evil.example/x.js"></script>'
QUOTES = '" onmouseover="alert(1)'


class Page(HTMLParser):
    """A page's sections and texts. Raises AssertionError where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "section":
            self.sections.append(str(dict(attrs)["id"]))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = Net()
    x = net.relu(net.conv("image", 3, 8))
    net.add("Conv", x, net.weights(8, 8, 3, 3), pads=[1, 1, 1, 1], name=HOSTILE)
    net.add("Relu", HOSTILE, name=QUOTES)
    net.add("Conv", QUOTES, net.weights(8, 1, 3, 3), group=8, name="depthwise")
    folder = tmp_path_factory.mktemp("report")
    np.save(folder / "frames.npy", np.stack(frames(20)))
    return save(net.model(net.pooled("depthwise"), own_spec=spec()), folder / "a&<b>.onnx")


def test_the_page_holds_everything_and_nothing_from_outside(model: Path) -> None:
    output, report = model.with_name("c&<d>.onnx"), model.with_name("report.html")
    command = ["calibrate", str(model), "--data", str(model.with_name("frames.npy")), "--force"]
    assert main([*command, "-o", str(output), "--report", str(report)]) == 0
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert page.sections == ["accuracy", "adjustments", "depth", "tradeoff", "layers", "ranges", "fp16"]
    # The only names that are followed are places on this page.
    outside = [value for name, value in page.attributes if name in ("href", "src", "xlink:href", "data")]
    assert all(str(value).startswith("#") for value in outside)
    assert not {"script", "link", "iframe", "img", "object", "base", "form"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    # Names stand there as they are, as text.
    joined = "\n".join(page.texts)
    assert "c&<d>.onnx" in joined
    assert "frames that chose no ranges and no steps, but decided which adjustments were kept" in joined
    assert HOSTILE in joined
    assert QUOTES in joined
    assert "Conv 3 × 3, depthwise, 8 → 8" in joined
    assert len(re.findall(r"</td><td>(?:kept|<b class=\"float\">not taken</b>)</td></tr>", text)) >= 2
    # Each tensor that calibration has a range for, with its histogram, and each layer.
    tensors = [value for name, value in page.attributes if name == "class" and value == "tensor"]
    assert len(tensors) == len(re.findall(r'<svg class="hist"', text)) >= 5
    assert len(re.findall(r'<td class="name">', text)) == 3
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)
    first = report.read_bytes()
    assert len(first) < 100_000
    calibrate(model, model.with_name("frames.npy"), output, report=report, force=True)
    assert report.read_bytes() == first


def test_a_fall_is_below_what_the_tensor_is_computed_from(tmp_path: Path) -> None:
    net = Net()
    first = net.add("Relu", "image", name="first")
    branch = net.add("Relu", net.add("Identity", first, name="unseen"), name="branch")
    net.add("Add", first, branch, name="sum")
    falls = _falls(
        graph_of(net.model("sum"), tmp_path), {"image": None, "first": 50.0, "branch": 20.0, "sum": 30.0}
    )
    assert falls == {"branch": 30.0, "sum": -10.0}  # `first` is the first one with an error


def test_a_report_that_cannot_be_written_is_refused_before_any_work(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = model.with_name("never.onnx")
    command = ["calibrate", str(model), "--data", str(model.with_name("frames.npy")), "-o", str(output)]
    assert main([*command, "--report", str(model.parent / "nowhere" / "report.html")]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not output.exists()


def test_what_is_read_is_not_written_over(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = model.with_name("frames.npy")
    before = model.read_bytes(), data.read_bytes()
    command = ["calibrate", str(model), "--data", str(data), "--force", "-o"]
    other = str(model.with_name("other.onnx"))
    for paths in (str(model),), (str(data),), (other, "--report", str(model)), (other, "--report", other):
        assert main([*command, *paths]) == 1
        assert "expected another file" in capsys.readouterr().err
    assert (model.read_bytes(), data.read_bytes()) == before


def test_what_saturates_is_counted() -> None:
    values = np.zeros(1000, np.float32)
    values[:10] = 10.0
    values[10:500] = np.linspace(0, 4.9, 490)
    stats = observe(values)
    assert saturated(stats, 10.0) == 0
    assert saturated(stats, 5.0) == pytest.approx(0.01)
    assert saturated(observe(values, histogram=False), 5.0) is None
    drawing = ElementTree.fromstring(histogram(stats, 5.0))
    assert [path.get("class") for path in drawing] == ["h", "s", "cut"]
    assert drawing[2].get("d") == "M80 0V36"  # half of the width
    assert histogram(observe(np.zeros(4, np.float32)), 1.0) == ""


def test_the_chosen_point_of_the_trade_off_is_marked() -> None:
    points = [
        TradeoffPoint(kept_in_float=("a",) * count, int8_share=1 - count / 10, predicted_sqnr_db=20.0 + count)
        for count in range(3)
    ]
    marks = [
        Point(x=100 * p.int8_share, y=p.predicted_sqnr_db, title="<t>", marked=p is points[1], label="chosen")
        for p in points
    ]
    text = tradeoff_plot(marks, [(100 * p.int8_share, p.predicted_sqnr_db) for p in points], "dB")
    drawing = ElementTree.fromstring(text)
    circles = [item for item in drawing.iter() if item.tag == "circle"]
    places = [float(str(item.get("cx"))) for item in circles]
    assert [item.get("class") for item in circles] == ["dot", "mark", "dot"]
    assert places == sorted(places, reverse=True)  # less INT8 is further left
    assert tradeoff_plot([], [], "dB") == ""
    percents = [Point(x=100.0, y=100.0, title=""), Point(x=50.0, y=100.0, title="")]
    ticks = [item.text for item in ElementTree.fromstring(tradeoff_plot(percents, [], "%")).iter()]
    assert "100" in ticks
    assert "100.2" not in ticks  # there is no such agreement
