"""For a DLA: the calibration cache, what it leaves to the GPU, and the build.

There is no DLA here and no TensorRT 10. The build runs against a stand-in that is called one and says what it
makes up; TensorRT for RTX compiles behind it.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.cli import main
from edgecnn.engine import read_engine_info
from edgecnn.errors import BuildError
from edgecnn.export.graph import load_graph, save_graph
from edgecnn.export.tensorrt import CompileOptions, build_engine
from edgecnn.export.tensorrt.auto import build_fastest
from edgecnn.export.tensorrt.calibration_cache import cache_text, tensor_scales
from edgecnn.export.tensorrt.dla import write_dla_files
from edgecnn.export.tensorrt.dla_rules import left_to_gpu
from edgecnn.export.tensorrt.flavours import calibrates
from edgecnn.metadata import QUANTIZATION_KEY
from edgecnn.quantization import QuantizationTable
from tests.networks import Net, frames, save, spec

STAND_IN = '''
"""Called TensorRT 10.3 on a board with two DLAs. What is said of DLAs, flags and calibrators is made up."""
import json, os
import tensorrt_rtx as rtx
from tensorrt_rtx import *
from tensorrt_rtx import IProgressMonitor, ILogger

__version__ = "10.3.0"


class BuilderFlag:
    FP16, INT8, GPU_FALLBACK = "FP16", "INT8", "GPU_FALLBACK"
    PREFER_PRECISION_CONSTRAINTS = "PREFER_PRECISION_CONSTRAINTS"
    __members__ = {"FP16": FP16, "INT8": INT8, "GPU_FALLBACK": GPU_FALLBACK}


precisions = {}  # of layers, which TensorRT for RTX's have no more
rtx.ILayer.precision = property(None, lambda layer, value: precisions.update({layer.name: value}))


class IInt8EntropyCalibrator2:
    pass


class Config:
    def __init__(self, real):
        self.__dict__.update(real=real, flags=[], int8_calibrator=None, DLA_core=None)

    def __getattr__(self, name):
        return getattr(self.real, name)

    def __setattr__(self, name, value):
        if name in ("int8_calibrator", "DLA_core", "default_device_type"):
            self.__dict__[name] = value
        else:
            setattr(self.real, name, value)

    def set_flag(self, flag):
        self.flags.append(flag)

    def can_run_on_DLA(self, layer):
        return layer.type not in (rtx.LayerType.MATRIX_MULTIPLY, rtx.LayerType.SHUFFLE)


class Builder(rtx.Builder):
    @property
    def num_DLA_cores(self):
        return 2

    def create_network(self, flags=0):
        self.typed = flags != 0
        return rtx.Builder.create_network(self, flags)

    def create_builder_config(self):
        return Config(rtx.Builder.create_builder_config(self))

    def build_serialized_network(self, network, config):
        cache = config.int8_calibrator.read_calibration_cache().decode() if config.int8_calibrator else None
        half = [name for name, precision in precisions.items() if precision == rtx.float16]
        said = dict(flags=config.flags, half=half, core=config.DLA_core, cache=cache, typed=self.typed)
        with open(os.environ["STAND_IN_SAID"], "w") as file:
            json.dump(said, file)
        return rtx.Builder.build_serialized_network(self, network, config.real)
'''


@pytest.fixture
def said(tmp_path: Path, rtx: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in is there as `tensorrt`; the file holds what it was told to build."""
    package = tmp_path / "library" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "library")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("STAND_IN_SAID", str(tmp_path / "said.json"))
    return tmp_path / "said.json"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a Gemm and a Flatten, which no DLA does."""
    from edgecnn.calibration import calibrate

    net = Net((1, 3, 8, 8))
    x = net.relu(net.conv("image", 3, 8))
    x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], name="pooled")
    scores = net.add("Gemm", net.pooled(x), net.weights(8, 5), name="logits")
    folder = tmp_path_factory.mktemp("model")
    model = save(net.model(scores, own_spec=spec(task="classification")), folder / "model.onnx")
    np.save(folder / "frames.npy", np.stack(frames()))
    return calibrate(model, folder / "frames.npy", folder / "calibrated.onnx").path


def table_of(model: Path) -> QuantizationTable:
    table = QuantizationTable.from_metadata(load_graph(model).metadata_props)
    assert table is not None
    return table


def test_the_cache_is_exact() -> None:
    text = cache_text({"image": 1 / 127, "a:0": 2.0}, "10.3.0")
    assert text == "TRT-100300-EntropyCalibration2\nimage: 3c010204\na:0: 40000000\n"
    assert struct.unpack(">f", bytes.fromhex("3c010204"))[0] == np.float32(1 / 127)
    assert cache_text({}, "10.13.2.6") == "TRT-101302-EntropyCalibration2\n"
    assert cache_text({}, "8.6.1") == "TRT-8601-EntropyCalibration2\n"


@pytest.mark.parametrize("version", ["11.0.0", "7.1.3", "10.3", "", "ten"])
def test_a_version_without_calibration(version: str) -> None:
    with pytest.raises(BuildError, match="no calibration cache can be written"):
        cache_text({"image": 1.0}, version)


def test_every_tensor_has_a_scale(calibrated: Path) -> None:
    graph, table = load_graph(calibrated).graph, table_of(calibrated)
    scales = tensor_scales(graph, table)
    names = [str(value.name) for value in graph.inputs]
    names += [str(output.name) for node in graph for output in node.outputs]
    assert list(scales) == names
    convolution, relu = graph[0], graph[1]
    assert scales["image"] == table.activations["image"].amax / 127
    clamped = str(relu.outputs[0].name)
    assert scales[str(convolution.outputs[0].name)] == scales[clamped] == table.activations[clamped].scale
    assert scales["pooled"] == scales[clamped]  # a pooling's ranges must be equal on both sides


def test_int8_on_a_dla(calibrated: Path, said: Path, tmp_path: Path) -> None:
    options = CompileOptions(dla_core=1, gpu_fallback=True)
    result = build_engine(
        calibrated, tmp_path / "model.engine", precision="int8", flavour="tensorrt", options=options
    )
    told = json.loads(said.read_text())
    assert (told["core"], told["flags"], told["typed"]) == (1, ["FP16", "INT8", "GPU_FALLBACK"], False)
    scales = tensor_scales(load_graph(calibrated).graph, table_of(calibrated))
    assert told["cache"] == cache_text(scales, "10.3.0")
    assert result.left_to_gpu
    assert any("layers run on the GPU, the DLA cannot do them" in warning for warning in result.warnings)
    assert result.to_dict()["left_to_gpu"] == list(result.left_to_gpu)
    info = read_engine_info(result.path)
    assert (info.dla_core, info.precision, info.library) == (1, "int8", "10.3.0")
    assert info.table_sha256


def test_layers_that_stay_in_float_are_fp16_on_a_dla(
    calibrated: Path, said: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, model = load_graph(calibrated), tmp_path / "mixed.onnx"
    table = dataclasses.replace(table_of(calibrated), kept_in_float={"conv_0": "a test"})
    graph.metadata_props[QUANTIZATION_KEY] = table.to_json()
    save_graph(graph, model)
    options = CompileOptions(dla_core=1, gpu_fallback=True)
    build_engine(model, tmp_path / "m.engine", precision="int8", flavour="tensorrt", options=options)
    told = json.loads(said.read_text())
    assert told["half"] == ["node_of_conv_0"]
    assert "PREFER_PRECISION_CONSTRAINTS" in told["flags"]
    arguments = ["lower", str(model), "--precision", "int8", "--target", "dla"]
    assert main([*arguments, "-o", str(tmp_path / "dla.onnx"), "--json"]) == 0
    command = json.loads(capsys.readouterr().out.splitlines()[-1])["command"]
    assert "--precisionConstraints=prefer --layerPrecisions=node_of_conv_0:fp16" in command


def test_fp16_on_a_dla(calibrated: Path, said: Path, tmp_path: Path) -> None:
    options = CompileOptions(dla_core=0, gpu_fallback=True)
    build_engine(calibrated, tmp_path / "m.engine", precision="fp16", flavour="tensorrt", options=options)
    told = json.loads(said.read_text())
    assert (told["flags"], told["cache"]) == (["FP16", "GPU_FALLBACK"], None)


def test_no_fallback_names_the_layers(calibrated: Path, said: Path, tmp_path: Path) -> None:
    arguments = ["build", str(calibrated), "--target", "tensorrt", "--precision", "int8", "--dla", "0"]
    with pytest.raises(BuildError, match=r"of \d+ layers cannot run on the DLA: got .*logits") as caught:
        build_engine(
            calibrated,
            tmp_path / "m.engine",
            precision="int8",
            flavour="tensorrt",
            options=CompileOptions(dla_core=0),
        )
    assert "--gpu-fallback" in str(caught.value)
    assert not said.exists()
    assert main([*arguments, "-o", str(tmp_path / "m.engine")]) == 1
    assert not (tmp_path / "m.engine").exists()
    assert main([*arguments, "--gpu-fallback", "-o", str(tmp_path / "m.engine")]) == 0


@pytest.mark.usefixtures("said")
def test_what_a_dla_is_not_for(calibrated: Path, tmp_path: Path) -> None:
    output, options = tmp_path / "m.engine", CompileOptions(dla_core=0)
    with pytest.raises(BuildError, match="a DLA does not compute in FP32"):
        build_engine(calibrated, output, precision="fp32", flavour="tensorrt", options=options)
    with pytest.raises(BuildError, match="INT8 needs a calibrated model"):
        build_engine(
            calibrated.with_name("model.onnx"),
            output,
            precision="int8",
            flavour="tensorrt",
            options=options,
        )
    with pytest.raises(BuildError, match="precision auto is for the GPU"):
        build_fastest(calibrated, output, flavour="tensorrt", options=options)


def test_which_version_calibrates(said: Path) -> None:
    assert calibrates("tensorrt")
    assert not calibrates("tensorrt_rtx")


def test_files_for_trtexec(calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = tmp_path / "dla.onnx"
    arguments = ["lower", str(calibrated), "--precision", "int8", "--target", "dla", "-o", str(graph)]
    assert main([*arguments, "--json", "--tensorrt-version", "10.7.0"]) == 0
    report = json.loads(capsys.readouterr().out)
    cache = Path(report["calibration_cache"]).read_text()
    assert cache.startswith("TRT-100700-EntropyCalibration2\nimage: ")
    assert f"--calib={report['calibration_cache']}" in report["command"]
    assert report["left_to_gpu_by"] == "NVIDIA's published list"
    assert "logits" in " ".join(report["left_to_gpu"]) or "Gemm" in " ".join(report["left_to_gpu"].values())
    operators = {node.op_type for node in load_graph(graph).graph}
    assert "Conv" in operators
    assert not operators & {"QuantizeLinear", "DequantizeLinear", "Cast"}
    assert main([*arguments, "--force"]) == 0
    assert "no DLA was asked" in capsys.readouterr().out
    assert main(arguments) == 1
    assert main(["lower", str(calibrated), "--precision", "int8", "-o", "x", "--tensorrt-version", "10"]) == 2


def test_a_free_batch_is_refused(tmp_path: Path) -> None:
    net = Net(("N", 3, 8, 8))
    model = save(net.model(net.relu(net.conv("image", 3, 4)), own_spec=spec()), tmp_path / "m.onnx")
    with pytest.raises(BuildError, match="a DLA takes fixed shapes"):
        write_dla_files(model, tmp_path / "dla.onnx", precision="fp16")


def reasons(net: Net, output: str, tmp_path: Path) -> list[str]:
    model = save(net.model(output, own_spec=spec()), tmp_path / "m.onnx")
    return list(left_to_gpu(load_graph(model).graph).values())


def test_what_nvidias_list_allows(tmp_path: Path) -> None:
    net = Net((1, 3, 8, 8))
    x = net.clip(net.conv("image", 3, 8), 0.0, 6.0)
    x = net.add("Add", x, net.add("Sigmoid", net.conv(x, 8, 8, groups=8)))
    x = net.add("Concat", x, net.add("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4), axis=1)
    assert reasons(net, net.add("GlobalAveragePool", x), tmp_path) == []


def test_what_nvidias_list_does_not(tmp_path: Path) -> None:
    def one(build: Any) -> str:
        net = Net((1, 3, 8, 8))
        (reason,) = reasons(net, build(net), tmp_path)
        return reason

    assert one(lambda net: net.clip(net.conv("image", 3, 4), -1.0, 1.0)).startswith("a DLA clips from 0")
    assert "padding 1" in one(
        lambda net: net.add("ConvTranspose", "image", net.weights(3, 4, 3, 3), pads=[1] * 4)
    )
    assert "window 9" in one(lambda net: net.add("MaxPool", "image", kernel_shape=[9, 9], pads=[4] * 4))
    assert "another axis" in one(lambda net: net.add("Concat", "image", "image", axis=2))
    assert "has no Erf" in one(lambda net: net.add("Erf", "image"))
    scales = np.array([1, 1, 1.5, 1.5], np.float32)
    assert "whole factors" in one(lambda net: net.add("Resize", "image", "", net.constant(scales)))
    assert "has 5 axes" in one(
        lambda net: net.add("Reshape", "image", net.constant(np.array([1, 1, 3, 8, 8])))
    )
