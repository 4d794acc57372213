from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.errors import DataError, InputError
from edgecnn.export.layers import compare_layers
from tests.networks import SIDE, Net, calibrated, frames, graph_of, lowered_bytes, save, spec


def write(folder: Path, *, batch: int | str = "N") -> dict[str, Path]:
    net = Net((batch, 3, SIDE, SIDE))
    net.add("Conv", "image", net.weights(8, 3, 3, 3), name="c1", pads=[1] * 4)
    net.add("Relu", "c1", name="r1")
    net.add("Conv", "r1", net.weights(8, 8, 1, 1), name="c2")
    net.add("Add", "r1", "c2", name="s")
    net.add("Flatten", "s", name="y")
    model = net.model("y")
    paths = {"fp32": save(model, folder / "fp32.onnx")}
    graph = calibrated(graph_of(model, folder))
    for precision in ("fp16", "int8"):
        paths[precision] = folder / f"{precision}.onnx"
        paths[precision].write_bytes(lowered_bytes(graph, precision))
    return paths


def test_a_model_against_itself(tmp_path: Path) -> None:
    path = write(tmp_path)["fp32"]
    result = compare_layers(path, path, spec().image, frames(3))
    assert [name for name, _ in result] == [
        "r1",
        "c2",
        "s",
        "y",
    ]  # what is between a layer and its clamp is none
    assert all(entry.sqnr_db is None for _, entry in result)


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize(("precision", "least"), [("int8", 25), ("fp16", 55)])
def test_every_layer_of_a_lowered_model_is_found(
    precision: str, least: float, batch: int | str, tmp_path: Path
) -> None:
    paths = write(tmp_path, batch=batch)
    steps: list[int] = []
    result = dict(
        compare_layers(
            paths["fp32"],
            paths[precision],
            spec().image,
            frames(4),
            progress=lambda stage, done, total: steps.append(done),
        )
    )
    assert list(result) == ["r1", "c2", "s", "y"]
    for entry in result.values():
        assert entry.sqnr_db is not None
        assert entry.sqnr_db > least
    assert steps == [1, 2, 3, 4]


def test_the_eight_bit_tensor_is_compared_and_not_what_it_was_made_of(tmp_path: Path) -> None:
    # Behind the first layer's rounding to 8 bits there are 48 dB, not the float kernel's 100 and more
    paths = write(tmp_path)
    result = dict(compare_layers(paths["fp32"], paths["int8"], spec().image, frames(4)))
    first = result["r1"].sqnr_db
    assert first is not None
    assert first < 55


def test_models_that_have_nothing_in_common(tmp_path: Path) -> None:
    net = Net()
    other = save(net.model(net.add("Flatten", net.relu("image"), name="z")), tmp_path / "other.onnx")
    with pytest.raises(InputError, match="share no tensor names"):
        compare_layers(write(tmp_path)["fp32"], other, spec().image, frames(2))


def test_tensors_of_one_name_and_different_shapes(tmp_path: Path) -> None:
    net = Net()
    net.add("Conv", "image", net.weights(5, 3, 1, 1), name="c2")
    other = save(net.model(net.add("Flatten", "c2", name="z")), tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"c2 has another shape in .*other\.onnx: got \(1, 5, 8, 8\)"):
        compare_layers(write(tmp_path)["fp32"], other, spec().image, frames(2))


def test_no_frames(tmp_path: Path) -> None:
    path = write(tmp_path)["fp32"]
    with pytest.raises(DataError, match="no frames"):
        compare_layers(path, path, spec().image, [])
