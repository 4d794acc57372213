"""What a compiled network could take at best on a Jetson: an estimate from published peaks, measured nowhere.

For each layer, with P operations a second in its type and B bytes a second of memory:

    t = max(2 · macs / P, (activations + constants) / B)          latency = Σ t

(the roofline model of Williams, Waterman and Patterson, 2009). Whichever is larger *binds* the layer. No
kernel reaches the peak, and starting one costs microseconds, so the real latency is longer; where a tensor
stays in the GPU's cache between two layers, the memory's share is shorter. And the layers are those of the
compiler that made the report: TensorRT on a device may fuse others than TensorRT for RTX does for a PC. The
sum serves to compare two lowerings of one network and to see which layers to look at; it does not replace a
measurement.

Peaks are of the GPU alone, without DLA, dense, in the fastest power mode. NVIDIA publishes them with
structured sparsity, which is twice as much and which ordinary weights do not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgecnn.export.tensorrt.report import CompileReport, LayerCost

__all__ = ["MODULES", "JetsonModule", "LayerBound", "Roofline", "estimate", "estimate_layer"]

Bound = Literal["compute", "memory"]


@dataclass(frozen=True, kw_only=True)
class JetsonModule:
    """A module's published peaks.

    Attributes:
        int8_tops, fp16_tflops: 10¹² operations a second, dense; a multiplication and an addition are two.
        bandwidth_gb_s: of the memory, 10⁹ bytes a second.
        source: where the numbers are from.
    """

    name: str
    int8_tops: float
    fp16_tflops: float
    bandwidth_gb_s: float
    source: str

    def operations_per_s(self, precision: str) -> float:
        """The peak for a type. FP32 as TF32, which TensorRT takes unless told not to: half of FP16."""
        if precision in ("int8", "fp8"):
            return self.int8_tops * 1e12
        return self.fp16_tflops * 1e12 * (1.0 if precision in ("fp16", "bf16") else 0.5)


# Ampere's tensor cores in Orin do 512 INT8 or 256 FP16 multiply-accumulates a clock each, which with the
# published clocks gives the published totals: 32 cores · 1.020 GHz, 32 · 1.173 GHz, 64 · 1.3 GHz.
MODULES: Mapping[str, JetsonModule] = {
    "orin-nano-8gb": JetsonModule(
        name="Jetson Orin Nano 8GB",
        int8_tops=33.0,
        fp16_tflops=17.0,
        bandwidth_gb_s=102.0,
        source="NVIDIA, Jetson Orin Nano Super: 67 sparse and 33 dense TOPS, 17 TFLOPS FP16, 102 GB/s",
    ),
    "orin-nx-16gb": JetsonModule(
        name="Jetson Orin NX 16GB",
        int8_tops=38.0,
        fp16_tflops=19.0,
        bandwidth_gb_s=102.0,
        source="NVIDIA, JetPack 6.2 Super mode: GPU at 1173 MHz, 77 of the 157 sparse TOPS; 102.4 GB/s",
    ),
    "agx-orin-64gb": JetsonModule(
        name="Jetson AGX Orin 64GB",
        int8_tops=85.0,
        fp16_tflops=42.5,
        bandwidth_gb_s=204.8,
        source="as published for Jetson AGX Orin: GPU 170 sparse INT8 TOPS at 1.3 GHz, 204.8 GB/s",
    ),
    "thor-t5000": JetsonModule(
        name="Jetson Thor T5000",
        int8_tops=517.0,
        fp16_tflops=258.0,
        bandwidth_gb_s=273.0,
        source="NVIDIA, Jetson Thor: 2070 sparse FP4 TFLOPS, 273 GB/s; INT8 taken as FP8, a quarter",
    ),
}


@dataclass(frozen=True, kw_only=True)
class LayerBound:
    """One layer's shortest time and what sets it."""

    name: str
    time_ms: float
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """An estimate for one module.

    Attributes:
        latency_ms: the sum over the layers: no inference is expected to be faster.
        compute_ms: of that, layers that the arithmetic binds; memory_ms: those that the memory binds.
        layers: the longest first.
    """

    module: JetsonModule
    latency_ms: float
    compute_ms: float
    memory_ms: float
    layers: tuple[LayerBound, ...]

    def to_dict(self, *, layers: int = 5) -> dict[str, Any]:
        """As a JSON object, with the longest `layers`."""
        return {
            "module": self.module.name,
            "estimate": True,
            "source": self.module.source,
            "latency_ms": round(self.latency_ms, 4),
            "compute_bound_ms": round(self.compute_ms, 4),
            "memory_bound_ms": round(self.memory_ms, 4),
            "longest": [
                {"name": item.name, "ms": round(item.time_ms, 5), "bound": item.bound}
                for item in self.layers[:layers]
            ],
        }


def estimate(report: CompileReport, module: JetsonModule) -> Roofline:
    """The roofline of a compiled network on a module."""
    bounds = [estimate_layer(item, module) for item in report.layers if item.layer.kind != "none"]
    by_bound = {
        bound: sum(item.time_ms for item in bounds if item.bound == bound) for bound in ("compute", "memory")
    }
    return Roofline(
        module=module,
        latency_ms=sum(by_bound.values()),
        compute_ms=by_bound["compute"],
        memory_ms=by_bound["memory"],
        layers=tuple(sorted(bounds, key=lambda item: -item.time_ms)),
    )


def estimate_layer(item: LayerCost, module: JetsonModule) -> LayerBound:
    """One layer's shortest time on a module."""
    compute_ms = 2e3 * item.macs / module.operations_per_s(item.layer.precision)
    moved = item.read_bytes + item.written_bytes + item.constant_bytes
    memory_ms = moved / (module.bandwidth_gb_s * 1e6)
    return LayerBound(
        name=item.layer.name,
        time_ms=max(compute_ms, memory_ms),
        bound="compute" if compute_ms > memory_ms else "memory",
    )
