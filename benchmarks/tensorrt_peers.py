"""What NVIDIA's compiler makes of our INT8 graphs, and of those that other tools make of the same models.

    python -m benchmarks.tensorrt_peers [--photos FOLDER] [--modelopt PYTHON] [--compute-capability 8.6]

EfficientNet-Lite0 (its own weights), ResNet-18 and a detector (random ones, with statistics) are exported,
calibrated with the photos, lowered, and compiled by TensorRT for RTX, which needs no GPU. The peers get the
same ONNX file and the same frames: ONNX Runtime's `quantize_static` (symmetric, per channel, float biases;
and with FP16 around it), and NVIDIA's Model Optimizer, which runs in an environment of its own: `PYTHON` is
its interpreter (`pip install nvidia-modelopt[onnx]`). Counted are compiled kernels, activation bytes, the
share of the convolutions' operations in INT8, casts and reformats; no times. SQNR is against FP32 on frames
that calibration did not see, in ONNX Runtime with optimizations off. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detector import detector, with_statistics
from benchmarks.networks import resnet18
from edgecnn.backends.onnxruntime import OnnxRuntimeBackend
from edgecnn.calibration import calibrate
from edgecnn.compare import OutputSums
from edgecnn.dataset import FrameSet, open_frames
from edgecnn.demo import export_efficientnet, packaged
from edgecnn.export import export_onnx
from edgecnn.export.graph import load_graph, to_bytes
from edgecnn.export.lowering import lower_graph
from edgecnn.export.lowering.tensorrt_int8 import quantize
from edgecnn.export.tensorrt import CompileOptions, compile_onnx
from edgecnn.preprocess import Preprocessor
from edgecnn.quantization import QuantizationTable
from edgecnn.spec import ModelSpec, image_spec

MODELOPT = """
import sys, numpy as np
from modelopt.onnx.quantization import quantize
model, data, output, name = sys.argv[1:]
quantize(model, "int8", calibration_data={name: np.load(data)}, calibration_method="max",
         calibration_eps=["cpu"], output_path=output, high_precision_dtype="fp16", log_level="ERROR")
"""


def main() -> None:
    """Make the graphs, compile them all, and show the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="folder of photos; scikit-image's otherwise")
    parser.add_argument("--modelopt", help="Python interpreter that has nvidia-modelopt[onnx]")
    parser.add_argument("--compute-capability", default="8.6")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    photos = open_frames(arguments.photos or packaged("skimage/data"))
    options = CompileOptions(compute_capabilities=(arguments.compute_capability,))
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in _export(Path(folder)).items():
            report[name] = _compare(name, model, photos, arguments.modelopt, options)
    print(json.dumps(report))


def _export(folder: Path) -> dict[str, Path]:
    imagenet = ModelSpec(task="classification", image=image_spec("imagenet"))
    small = ModelSpec(task="raw", image=image_spec("yolo", size_hw=(160, 160)))
    paths = {name: folder / f"{name}.onnx" for name in ("EfficientNet-Lite0", "ResNet-18", "detector")}
    export_efficientnet(paths["EfficientNet-Lite0"])
    export_onnx(with_statistics(resnet18(), 224), imagenet, paths["ResNet-18"])
    export_onnx(detector(), small, paths["detector"])
    return paths


def _compare(
    name: str, model: Path, photos: FrameSet, modelopt: str | None, options: CompileOptions
) -> dict[str, Any]:
    source = str(photos.name)
    calibrated = model.with_suffix(".calibrated.onnx")
    result = calibrate(model, source, calibrated)
    table_db = result.accuracy.worst_sqnr_db
    graph = load_graph(calibrated)
    image = ModelSpec.from_metadata(graph.metadata_props)
    assert image is not None
    calibration, held_out = (_tensors(frames, image) for frames in open_frames(source).split())
    plain = model.with_suffix(".plain.onnx")
    bare = load_graph(model)
    bare.metadata_props.clear()
    plain.write_bytes(to_bytes(bare))
    graphs: dict[str, bytes] = {
        "ours, fp16": to_bytes(lower_graph(graph, "fp16", target="tensorrt")),
        "ours, int8": to_bytes(lower_graph(graph, "int8", target="tensorrt")),
        **_quantize_static(plain, calibration),
    }
    if modelopt is not None:
        graphs["Model Optimizer"] = _modelopt(modelopt, plain, calibration)
    rows = {}
    for tool, content in graphs.items():
        plan = model.with_suffix(".plan")
        found = compile_onnx(content, plan, options, force=True).report.totals()
        keys = ("kernels", "activation_bytes", "convolutions_int8", "casts", "reformats", "kinds")
        rows[tool] = {key: found[key] for key in keys}
        rows[tool]["sqnr_db"] = _sqnr(plain.read_bytes(), content, held_out)
        print(
            f"{name:20} {tool:32} {found['kernels']:4} kernels {found['activation_bytes'] / 1e6:6.1f} MB "
            f"int8 {found['convolutions_int8']:.4f} {found['casts']} casts {found['reformats']} reformats "
            f"{rows[tool]['sqnr_db']:.1f} dB",
            flush=True,
        )
    exact = _sqnr(plain.read_bytes(), _table_alone(calibrated), held_out)
    print(f"{name:20} the same Q/DQ, all else in FP32: {exact:.1f} dB; calibration said {table_db:.1f}")
    return {"tools": rows, "table_sqnr_db": exact, "calibration_sqnr_db": round(table_db, 2)}


def _table_alone(calibrated: Path) -> bytes:
    """The table's grid alone: Q/DQ where TensorRT's lowering puts it, and everything around in FP32."""
    graph = load_graph(calibrated)
    table = QuantizationTable.from_metadata(graph.metadata_props)
    assert table is not None
    quantize(graph.graph, table, set(graph.graph))
    return to_bytes(graph)


def _tensors(frames: FrameSet, spec: ModelSpec) -> NDArray[np.float32]:
    prepare = Preprocessor(spec.image)
    tensors = []
    for frame in frames:
        prepare(frame)
        tensors.append(prepare.tensor.copy())
    return np.concatenate(tensors)


def _quantize_static(model: Path, tensors: NDArray[np.float32]) -> dict[str, bytes]:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.transformers.float16 import convert_float_to_float16

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self, name: str) -> None:
            self._frames = iter([{name: tensor[None]} for tensor in tensors])

        def get_next(self) -> Any:
            return next(self._frames, None)

    proto = onnx.load(model)
    output = model.with_suffix(".static.onnx")
    quantize_static(
        model,
        output,
        Reader(proto.graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    around = convert_float_to_float16(onnx.load(output), keep_io_types=True, op_block_list=[])
    around.ir_version = 10
    return {
        "quantize_static": output.read_bytes(),
        "quantize_static, FP16 around it": around.SerializeToString(),
    }


def _modelopt(python: str, model: Path, tensors: NDArray[np.float32]) -> bytes:
    import onnx

    data, output = model.with_suffix(".npy"), model.with_suffix(".modelopt.onnx")
    np.save(data, tensors)
    name = onnx.load(model).graph.input[0].name
    command = [python, "-c", MODELOPT, str(model), str(data), str(output), name]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output.read_bytes()


def _sqnr(reference: bytes, content: bytes, tensors: Iterable[NDArray[np.float32]]) -> float:
    first = OnnxRuntimeBackend(reference)
    second = OnnxRuntimeBackend(content, optimized=False)
    sums = [OutputSums() for _ in first.outputs]
    for tensor in tensors:
        expected = first.run({first.inputs[0].name: tensor[None]})
        found = second.run({second.inputs[0].name: tensor[None].astype(second.inputs[0].dtype)})
        for total, right, other in zip(sums, expected.values(), found.values(), strict=True):
            total.add(right, other)
    values = [total.result().sqnr_db for total in sums]
    return round(min(value for value in values if value is not None), 2)


if __name__ == "__main__":
    main()
