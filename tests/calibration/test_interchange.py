"""Ranges that come from other tools, in the files that these write."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgecnn.calibration import calibrate
from edgecnn.calibration.interchange import import_ranges, match_ranges, read_ranges
from edgecnn.calibration.observation import weight_scales
from edgecnn.cli import main
from edgecnn.errors import BuildError, ModelFormatError, ModelNotFoundError
from edgecnn.export.graph import load_graph, save_graph, to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.tensorrt.calibration_cache import cache_text
from edgecnn.metadata import ACCURACY_KEY, QUANTIZATION_KEY
from edgecnn.quantization import ActivationRange, QuantizationTable
from tests.networks import Net, calibrated, frames, inputs, run, save, spec, sqnr_db


def network(folder: Path, seed: int = 0) -> Path:
    net = Net(seed=seed)
    x = net.relu(net.conv("image", 3, 8))
    x = net.add(
        "MaxPool", net.relu(net.add("Add", x, net.conv(x, 8, 8))), kernel_shape=[2, 2], strides=[2, 2]
    )
    x = net.clip(net.conv(x, 8, 8, groups=8), 0, 6)
    scores = net.add("Gemm", net.pooled(x), net.weights(8, 5), net.constant([0.5] * 5), name="logits")
    return save(net.model(scores, own_spec=spec(task="classification")), folder / f"model{seed}.onnx")


class Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.images: Iterator[NDArray[Any]] = iter([inputs(seed=seed) for seed in range(8)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        image = next(self.images, None)
        return None if image is None else {"image": image}


def quantized(model: Path, **options: Any) -> Path:
    """The model as ONNX Runtime's own tool quantizes it."""
    path = model.with_name("quantized.onnx")
    quantize_static(
        str(model), str(path), Images(), quant_format=QuantFormat.QDQ,
        **{"per_channel": True, "activation_type": QuantType.QInt8, **options},
    )  # fmt: skip
    return path


def lowered(path: Path, target: Any = "onnxruntime") -> bytes:
    return to_bytes(lower_graph(load_graph(path), "int8", target=target))


def float_weights(path: Path) -> dict[str, NDArray[Any]]:
    graph = onnx.load(path).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.mark.parametrize("suffix", [".json", ".onnx"])
def test_a_table_that_was_written_lowers_to_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    model, data = network(tmp_path), tmp_path / "frames.npy"
    np.save(data, np.stack(frames()))
    calibrated = calibrate(model, data, tmp_path / "calibrated.onnx").path
    file = tmp_path / f"again{suffix}"
    if suffix == ".json":
        assert main(["table", str(calibrated), "-o", str(file)]) == 0
    else:
        file.write_bytes(calibrated.read_bytes())
    found = import_ranges(model, file, tmp_path / "imported.onnx")
    assert (found.missing, found.extra) == ((), ())
    assert found.path is not None
    for target in ("onnxruntime", "tensorrt"):
        assert lowered(found.path, target) == lowered(calibrated, target)
    assert ACCURACY_KEY not in load_graph(found.path).metadata_props


def test_nothing_of_a_range_is_lost_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = network(tmp_path), tmp_path / "table.json"
    graph = calibrated(load_graph(model))
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    marked = {
        name: dataclasses.replace(entry, low=entry.low / 2, centred=number % 2 == 1)
        for number, (name, entry) in enumerate(table.activations.items())
    }
    table = dataclasses.replace(table, activations=marked)
    graph.metadata_props[QUANTIZATION_KEY] = table.to_json()
    save_graph(graph, tmp_path / "calibrated.onnx")
    assert main(["table", str(tmp_path / "calibrated.onnx"), "-o", str(file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])["activations"]
    assert {name: ActivationRange(**entry) for name, entry in shown.items()} == marked
    assert import_ranges(model, file, tmp_path / "imported.onnx").table == table


def test_a_calibration_cache_of_tensorrt_says_the_same_scales(tmp_path: Path) -> None:
    model, data = network(tmp_path), tmp_path / "frames.npy"
    np.save(data, np.stack(frames()))
    calibrated = calibrate(
        model, data, tmp_path / "calibrated.onnx", method="minmax", rounding="nearest"
    ).path
    cache = tmp_path / "calib.table"
    assert main(["table", str(calibrated), "-o", str(cache), "--tensorrt-version", "8.6.1"]) == 0
    assert cache.read_text().startswith("TRT-8601-EntropyCalibration2\nimage: ")
    found = import_ranges(model, cache, tmp_path / "imported.onnx")
    own = QuantizationTable.from_metadata(load_graph(calibrated).metadata_props)
    assert own is not None
    assert found.table.weights == own.weights
    # the input's, and of each layer behind its activation; the cache has single precision
    assert found.table.activations.keys() == own.activations.keys()
    for name, entry in found.table.activations.items():
        assert entry.amax == pytest.approx(own.activations[name].amax, rel=1e-6)
        assert entry.method == "imported"
    assert found.path is not None
    values = inputs()
    assert sqnr_db(run(lowered(calibrated), values), run(lowered(found.path), values)) > 60


def test_the_cache_of_an_engine_names_tensors_that_the_model_has_not(tmp_path: Path) -> None:
    model = network(tmp_path)

    def line(name: str, scale: float) -> str:
        return f"{name}: {struct.pack('>f', scale).hex()}"

    graph = load_graph(model)
    names = [str(value.name) for node in graph.graph for value in node.outputs]
    cache = tmp_path / "model.table"
    # as TensorRT writes it: also what is between a layer and its activation, with the range that it has there
    lines = ["TRT-101100-EntropyCalibration2", line("image", 2 / 127)]
    lines += [line(name, (1 if "relu" in name or "clip" in name else 9) / 127) for name in names]
    lines += [line("(Unnamed Layer* 3) [Constant]_output", 1.0), line("never seen", 0.0)]
    cache.write_text("\n".join(lines) + "\n")
    found = match_ranges(graph, read_ranges(cache))
    assert found.extra == ("(Unnamed Layer* 3) [Constant]_output",)
    assert found.missing == ()
    amax = {name: entry.amax for name, entry in found.table.activations.items()}
    assert amax["image"] == pytest.approx(2)
    clamped = [name for name in amax if "relu" in name or "clip" in name]
    assert len(clamped) == 3
    assert all(amax[name] == pytest.approx(1) for name in clamped)
    assert found.table.notes == ("ranges from model.table (TRT-101100-EntropyCalibration2)",)


@pytest.mark.parametrize(
    ("activations", "symmetric"),
    [(QuantType.QInt8, True), (QuantType.QInt8, False), (QuantType.QUInt8, False)],
)
def test_a_model_that_onnxruntime_quantized(activations: Any, symmetric: bool, tmp_path: Path) -> None:
    model = network(tmp_path)
    options = {"ActivationSymmetric": symmetric, "WeightSymmetric": True}
    other = quantized(model, activation_type=activations, extra_options=options)
    found = import_ranges(model, other, tmp_path / "imported.onnx")
    assert (found.missing, found.extra) == ((), ())
    assert found.path is not None
    assert any("zero points" in note for note in found.table.notes) is not symmetric
    # the float model is the one that was given, and its weights have the steps of the file
    for name, values in float_weights(model).items():
        np.testing.assert_array_equal(float_weights(found.path)[name], values)
    theirs = {name for name in float_weights(other) if name.endswith("_quantized") and "constant" in name}
    assert len(theirs) >= len(found.table.weights) == 4
    for name, entry in found.table.weights.items():
        steps = float_weights(other).get(f"{name}_quantized")
        if steps is not None:
            given = entry.on_grid(float_weights(model)[name])
            sides = [1] * given.ndim
            sides[entry.axis] = -1
            given = np.rint(given / np.asarray(entry.scales).reshape(sides))
            np.testing.assert_array_equal(given, steps)
    images = [inputs(seed=seed) for seed in range(20, 26)]
    expected = [run(model.read_bytes(), value)[0] for value in images]
    actual = [run(lowered(found.path), value)[0] for value in images]
    assert sqnr_db(expected, actual) > 25


def test_a_model_as_model_optimizer_writes_it(tmp_path: Path) -> None:
    """Float weights behind Q/DQ, Q/DQ in front of poolings, and layers that it leaves in float."""
    model = network(tmp_path)
    other = onnx.load(model)
    graph = other.graph
    weights = {name: values for name, values in float_weights(model).items() if values.ndim == 4}
    left_out = "constant_4"  # the depthwise convolution's weights
    scales: dict[str, Any] = {
        name: np.abs(values).max((1, 2, 3)).astype(np.float32) / 127
        for name, values in weights.items()
        if name != left_out
    }
    scales |= dict.fromkeys(("image", "relu_1", "relu_4", "clip_7"), np.float32(3 / 127))
    skipped = next(node for node in graph.node if left_out in node.input)
    for name, scale in scales.items():
        constants = {f"{name}_scale": scale, f"{name}_zero_point": np.zeros(np.shape(scale), np.int8)}
        graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
        for node in graph.node:
            if node is not skipped:
                node.input[:] = [f"{name}_DQ" if operand == name else operand for operand in node.input]
        quantize = onnx.helper.make_node("QuantizeLinear", [name, *constants], [f"{name}_Q"], axis=0)
        dequantize = onnx.helper.make_node(
            "DequantizeLinear", [f"{name}_Q", *constants], [f"{name}_DQ"], axis=0
        )
        made = [index for index, node in enumerate(graph.node) if name in node.output]
        place = made[0] + 1 if made else 0
        graph.node.insert(place, quantize)
        graph.node.insert(place + 1, dequantize)
    onnx.checker.check_model(other, full_check=True)
    file = save(other, tmp_path / "optimized.onnx")
    found = match_ranges(load_graph(model), read_ranges(file))
    assert found.extra == ()
    assert len(found.missing) == 1  # the Gemm; the depthwise layer reads moved values of what has a range
    assert {round(entry.amax, 5) for entry in found.table.activations.values()} == {3.0}
    for name, scale in scales.items():
        if name in weights:
            assert found.table.weights[name].scales == tuple(np.asarray(scale, np.float64))


def test_with_frames_the_weights_are_rounded_by_them_and_the_accuracy_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = network(tmp_path), tmp_path / "frames.npy"
    np.save(data, np.stack(frames()))
    other = quantized(model, extra_options={"ActivationSymmetric": True})
    output = tmp_path / "calibrated.onnx"
    arguments = ["calibrate", str(model), "--ranges", str(other), "-o", str(output)]
    assert main([*arguments, "--data", str(data)]) == 0
    metadata = load_graph(output).metadata_props
    table = QuantizationTable.from_metadata(metadata)
    assert table is not None
    assert ACCURACY_KEY in metadata
    assert (table.method, table.frames) == ("imported", 10)
    given = match_ranges(load_graph(model), read_ranges(other)).table
    amax = {name: entry.amax for name, entry in table.activations.items()}
    assert amax == {name: entry.amax for name, entry in given.activations.items()}
    assert {entry.method for entry in table.activations.values()} == {"imported"}
    capsys.readouterr()
    assert main([*arguments, "--force"]) == 0
    assert "not measured" in capsys.readouterr().err
    assert main(["calibrate", str(model), "-o", str(output), "--force"]) == 2


def test_ranges_of_another_model_are_refused(tmp_path: Path) -> None:
    model = network(tmp_path)
    cache = tmp_path / "other.table"
    cache.write_text(
        "TRT-101100-EntropyCalibration2\nimage: 3c010a14\nbackbone.0: 3c010a14\nhead: 3c010a14\n"
    )
    with pytest.raises(
        BuildError,
        match=r"1 of 4 layers, not for conv_2; 2 of 3 names are not in the model, such as backbone.0",
    ):
        import_ranges(model, cache, tmp_path / "imported.onnx")
    assert not (tmp_path / "imported.onnx").exists()


def test_weights_that_were_trained_further_are_not_taken(tmp_path: Path) -> None:
    model = network(tmp_path)
    other = quantized(network(tmp_path, seed=1))  # the same names, other weights
    found = match_ranges(load_graph(model), read_ranges(other))
    assert "the weights of 4 layers in the file are others" in " ".join(found.table.notes)
    assert (
        found.table.weights
        == match_ranges(load_graph(model), dataclasses.replace(read_ranges(other), weights={})).table.weights
    )


def test_a_table_of_other_weights_gives_ranges_alone(tmp_path: Path) -> None:
    """Equalization, and training, leave the names and the shapes: the steps would be nonsense."""
    model, other = (load_graph(network(tmp_path, seed=seed)) for seed in (0, 1))
    own = QuantizationTable.from_metadata(calibrated(other.clone()).metadata_props)
    assert own is not None
    file = tmp_path / "table.json"
    file.write_text(dataclasses.replace(own, rounding="second-order").to_json())
    assert match_ranges(other, read_ranges(file)).table.rounding == "second-order"
    found = match_ranges(model, read_ranges(file)).table
    assert "are for other weights" in " ".join(found.notes)
    assert (found.weights, found.rounding) == (weight_scales(model), "nearest")
    model.metadata_props[QUANTIZATION_KEY] = own.to_json()
    with pytest.raises(ModelFormatError, match="belongs to another model"):
        lower_graph(model, "int8")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"TRT-8601-EntropyCalibration2\nimage: 3c01\n", "damaged in line 2"),
        (b"TRT-8601-EntropyCalibration2\nimage: 7f800000\n", "damaged in line 2"),
        (b"TRT-8601-EntropyCalibration2\na: 3c010a14\na: 3c010a15\n", "has a twice.*in line 3"),
        (b"TRT-8601\n", "not a calibration cache"),
        (b"\x80\x04", "no ranges that are known here"),
        (b"{", "ranges cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "ranges"
    file.write_bytes(content)
    with pytest.raises(ModelFormatError, match=words):
        read_ranges(file)


def test_a_folder_is_not_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is a folder"):
        read_ranges(tmp_path)


def test_files_that_went_through_windows_are_read(tmp_path: Path) -> None:
    """A byte order mark, CRLF, suffixes in capitals; U+2028 is part of a name."""
    model, file = network(tmp_path), tmp_path / "ranges"
    table = QuantizationTable.from_metadata(calibrated(load_graph(model)).metadata_props)
    assert table is not None
    file.write_bytes(b"\xef\xbb\xbf" + table.to_json().encode())
    assert read_ranges(file).table == table
    text = "TRT-8601-EntropyCalibration2\r\nimage\u2028: 3c010a14\r\n\r\nrelu: 3c010a14\r\n"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_ranges(file).activations.keys() == {"image\u2028", "relu"}
    shouted = quantized(model).rename(tmp_path / "MODEL.ONNX")
    assert read_ranges(shouted).weights


@pytest.mark.parametrize("scale", [2.0**-149, 3.4e38], ids=["denormal", "amax beyond float32"])
def test_ranges_that_float32_cannot_hold_are_left_out(scale: float, tmp_path: Path) -> None:
    model = network(tmp_path)
    cache, output = tmp_path / "model.table", tmp_path / "imported.onnx"
    scales = {str(value.name): 0.02 for node in load_graph(model).graph for value in node.outputs}
    cache.write_text(cache_text(scales | {"image": scale}, "8.6.1"))
    found = import_ranges(model, cache, output)
    assert "image" not in found.table.activations
    assert found.missing == ("conv_0",)
    assert any("float32 and were left out, such as image" in words for words in found.warnings)
    assert all(np.isfinite(run(lowered(output), inputs())[0]).ravel())


def test_a_float_model_has_no_ranges(tmp_path: Path) -> None:
    model = network(tmp_path)
    with pytest.raises(ModelFormatError, match="has no ranges"):
        read_ranges(model)
    assert main(["table", str(model)]) == 1
