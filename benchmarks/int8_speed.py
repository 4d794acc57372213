"""INT8 against FP32 in ONNX Runtime on this CPU: latency of one inference, and what INT8 costs in accuracy.

    python -m benchmarks.int8_speed [--threads N] [--photos FOLDER]

ResNet-18 (random weights: its time counts, its accuracy says little) and, where its package is installed,
EfficientNet-Lite0 with its ImageNet weights. The precisions take turns in one run. Last line: JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.networks import resnet18
from edgecnn.calibration import calibrate
from edgecnn.demo import export_efficientnet, packaged
from edgecnn.export import build, export_onnx
from edgecnn.spec import ModelSpec, image_spec


def main() -> None:
    """Export, calibrate, build with `auto`, and show what it measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--photos", type=Path, help="folder of photos; scikit-image's otherwise")
    arguments = parser.parse_args()
    photos = arguments.photos or packaged("skimage/data")

    report: dict[str, Any] = {"threads": arguments.threads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = ModelSpec(task="classification", image=image_spec("imagenet"))
        export_onnx(resnet18(), spec, folder / "resnet18.onnx")
        models = ["resnet18"]
        if importlib.util.find_spec("efficientnet_lite_pytorch"):
            export_efficientnet(folder / "efficientnet_lite0.onnx")
            models.append("efficientnet_lite0")
        for model in models:
            calibrated = calibrate(folder / f"{model}.onnx", photos, folder / f"{model}.calibrated.onnx").path
            built = folder / f"{model}.built.onnx"
            result = build(calibrated, built, min_agreement=0, threads=arguments.threads)
            latency = {c.precision: c.latency_ms["p50"] for c in result.candidates if c.latency_ms}
            int8 = next(c for c in result.candidates if c.precision == "int8")
            report[model] = {
                "latency_ms_p50": latency,
                "int8_to_fp32": round(latency["int8"] / latency["fp32"], 3),
                "convolutions": dict(int8.convolutions),
                "sqnr_db": min(output["sqnr_db"] for output in (int8.accuracy or {})["outputs"].values()),
            }
            print(f"{model}: {latency}, INT8 takes {report[model]['int8_to_fp32']} of FP32's time")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
