"""One build with TensorRT's Python API, inside the worker.

The library is one of two with the same API; what only some versions have is found by its name.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from edgecnn.errors import BackendUnavailableError, BuildError, EdgeCNNError, ModelFormatError
from edgecnn.export.tensorrt.calibration_cache import cache_text
from edgecnn.export.tensorrt.flavours import facts_of
from edgecnn.export.tensorrt.progress import Phases
from edgecnn.export.tensorrt.protocol import Finished, Logged, Progressed, Request, TensorFacts
from edgecnn.export.tensorrt.timing_cache import TimingCache
from edgecnn.gpu import read_gpu

__all__ = ["Compilation"]

_PERMILLE = 1000


class Compilation:
    """One build, from the ONNX bytes to the plan's file.

    Args:
        request: what to do.
        send: takes events for the parent.
        note: takes every line that TensorRT logs.
        stop: ends the build at its next step when set.

    Raises:
        BackendUnavailableError: the library cannot be imported.
    """

    def __init__(
        self,
        request: Request,
        send: Callable[[Struct], None],
        note: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._request = request
        self._send = send
        self._note = note
        self._stop = stop
        self._facts = facts_of(request.flavour)
        self._options = request.options
        self._listings: list[str] = []
        self._left_to_gpu: list[str] = []
        try:
            self._trt: Any = importlib.import_module(request.flavour)
        except (ImportError, OSError) as error:  # OSError: a library that its wheel expects is missing
            raise BackendUnavailableError(
                f"{self._facts.title} cannot be used", got=str(error), remedy=self._facts.remedy
            ) from error
        self._timing_cache = TimingCache(
            self._options["timing_cache"],
            folder=request.cache_folder,
            library=f"{request.flavour}-{self._trt.__version__}",
            used="timing_cache" not in self._facts.refused,
        )

    def run(self, model: str | bytes) -> Finished:
        """Compile a file or the bytes of one, and write the plan."""
        trt = self._trt
        start = time.monotonic()
        builder = trt.Builder(_logger(trt, self._logged))
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        weakly = typed is None or bool(self._request.flags)
        network = builder.create_network(0 if typed is None or weakly else 1 << int(typed))
        parser = trt.OnnxParser(network, builder.logger)
        accepted = parser.parse_from_file(model) if isinstance(model, str) else parser.parse(model)
        if not accepted or not network.num_outputs:
            raise _refused(parser)
        config = builder.create_builder_config()
        profiles = self._configure(builder, network, config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            # why, TensorRT has logged; the parent has it
            raise BuildError("the build was stopped" if self._stop.is_set() else "")
        with Path(self._request.plan).open("wb") as file:
            file.write(plan)
        if problem := self._timing_cache.save(config):
            self._send(Logged(severity="WARNING", text=problem))
        gpu = read_gpu()
        return Finished(
            library=str(trt.__version__),
            gpu=gpu.name if gpu else None,
            compute_capability=gpu.compute_capability if gpu else None,
            cuda=gpu.cuda if gpu else None,
            inputs=[_facts(network.get_input(index)) for index in range(network.num_inputs)],
            outputs=[_facts(network.get_output(index)) for index in range(network.num_outputs)],
            profiles=profiles,
            listings=self._listings,
            inspected=None if self._listings else self._inspect(builder.logger, plan),
            build_s=time.monotonic() - start,
            left_to_gpu=self._left_to_gpu,
        )

    def _configure(self, builder: Any, network: Any, config: Any) -> list[dict[str, list[list[int]]]]:
        trt, options = self._trt, self._options
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.progress_monitor = _monitor(trt, self._progressed, self._stop)
        if self._request.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._request.workspace_bytes)
        if options["optimization_level"] is not None:
            config.builder_optimization_level = options["optimization_level"]
        if capabilities := options["compute_capabilities"]:
            config.num_compute_capabilities = len(capabilities)
            for index, name in enumerate(capabilities):
                config.set_compute_capability(self._capability(name), index)
        if options["version_compatible"]:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options["hardware_compatibility"] != "none":
            config.hardware_compatibility_level = _member(
                trt.HardwareCompatibilityLevel, options["hardware_compatibility"], "hardware_compatibility"
            )
        if options["dla_core"] is not None:
            self._use_dla(builder, network, config, options["dla_core"])
        self._timing_cache.load(config)
        return self._add_profile(builder, network, config)

    def _capability(self, name: str) -> Any:
        known = self._trt.ComputeCapability.__members__
        if "SM" + name.replace(".", "") not in known:
            numbers = [member[2:] for member in known if member[2:].isdecimal()]
            raise BuildError(
                f"{self._facts.title} {self._trt.__version__} does not compile for this compute capability",
                got=name,
                expected=", ".join(f"{number[:-1]}.{number[-1]}" for number in numbers),
            )
        return known["SM" + name.replace(".", "")]

    def _use_dla(self, builder: Any, network: Any, config: Any, core: int) -> None:
        trt = self._trt
        cores = builder.num_DLA_cores
        if core >= cores:
            raise BuildError(
                "dla_core cannot be honoured",
                got=str(core),
                expected=f"below {cores}" if cores else "a machine with a DLA: AGX Orin, Orin NX",
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        for name in self._request.flags:
            config.set_flag(_member(trt.BuilderFlag, name, "precision"))
        if self._request.scales:
            config.int8_calibrator = _calibrator(trt, cache_text(self._request.scales, trt.__version__))
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        if self._request.half:
            config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
            for layer in layers:
                if layer.name in self._request.half:
                    layer.precision = trt.float16
        self._left_to_gpu = [
            layer.name
            for layer in layers
            if layer.type != trt.LayerType.CONSTANT and not config.can_run_on_DLA(layer)
        ]
        if self._options["gpu_fallback"]:
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        elif self._left_to_gpu:
            raise BuildError(
                f"{len(self._left_to_gpu)} of {len(layers)} layers cannot run on the DLA",
                got=", ".join(self._left_to_gpu),
                remedy="With --gpu-fallback (gpu_fallback=True) they run on the GPU",
            )

    def _add_profile(self, builder: Any, network: Any, config: Any) -> list[dict[str, list[list[int]]]]:
        """Ranges for the inputs with free sides; the options' `shapes` first, then `batch`."""
        batch, shapes = self._options["batch"], self._options["shapes"]
        inputs = {item.name: tuple(item.shape) for item in map(network.get_input, range(network.num_inputs))}
        free = {name: shape for name, shape in inputs.items() if min(shape, default=0) < 0}
        if unknown := sorted(shapes.keys() - inputs.keys()):
            raise BuildError("shapes name no input", got=", ".join(unknown), expected=", ".join(inputs))
        if (batch or shapes) and not free:
            raise BuildError(
                "every input has a fixed shape",
                got="batch" if batch else "shapes",
                remedy="Export the model again with --batch dynamic, or leave the option out",
            )
        if not free:
            return []
        profile = builder.create_optimization_profile()
        ranges = {}
        for name, shape in free.items():
            ranges[name] = shapes.get(name) or _batch_range(name, shape, batch or (1, 1, 1))
            _check_range(name, shape, ranges[name])
            profile.set_shape(name, *map(tuple, ranges[name]))
        config.add_optimization_profile(profile)
        return [ranges]

    def _inspect(self, logger: Any, plan: Any) -> str | None:
        """The engine inspector's JSON, for a version that prints no list; None where no GPU can load it."""
        trt = self._trt
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None:
            return None
        text: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        return text

    def _logged(self, severity: str, text: str) -> None:
        if text.lstrip().startswith("Layers:"):
            self._listings.append(text)
            return  # 200 kB that would push everything else out of the log
        self._note(f"[{severity}] {text}\n")
        if severity in ("WARNING", "ERROR", "INTERNAL_ERROR"):
            self._send(Logged(severity=severity, text=text))

    def _progressed(self, phase: str, fraction: float) -> None:
        self._send(Progressed(phase=phase, done=int(fraction * _PERMILLE), total=_PERMILLE))


def _logger(trt: Any, logged: Callable[[str, str], None]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known when this runs
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            logged(severity.name, text)

    return Logger()


def _calibrator(trt: Any, cache: str) -> Any:
    """Hands TensorRT the scales that are known. It must never ask for data."""

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return cache.encode()

        def write_calibration_cache(self, cache: Any) -> None:
            return None

    return Calibrator()


def _monitor(trt: Any, progressed: Callable[[str, float], None], stop: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases = Phases()
            self._shown = -1

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._phases.start(name, parent, steps)
            self._show(name)

        def step_complete(self, name: str, step: int) -> bool:
            self._phases.step(name, step)
            self._show(name)
            return not stop.is_set()

        def phase_finish(self, name: str) -> None:
            self._phases.finish(name)
            self._show(name)

        def _show(self, name: str) -> None:
            permille = int(self._phases.fraction * _PERMILLE)
            if permille > self._shown and not stop.is_set():  # a build that is stopped closes its phases
                self._shown = permille
                progressed(name, self._phases.fraction)

    return Monitor()


def _refused(parser: Any) -> EdgeCNNError:
    """What NVIDIA's parser says of the graph."""
    if not parser.num_errors:  # bytes that parse as a message without a graph
        return ModelFormatError("the model is not an ONNX graph", expected="an ONNX model with outputs")
    error = parser.get_error(0)
    name, operator = (_optional(error, item) for item in ("node_name", "node_operator"))
    where = f" {operator} {name}".rstrip() if operator else ""
    text = f"{error.desc()} ({str(error.code()).rpartition('.')[2]})"
    if not where and "DESERIALIZE" in text:
        return ModelFormatError("TensorRT's parser cannot read the model", got=text)
    at = f" at{where}" if where else ""
    return BuildError(f"TensorRT's parser does not accept the model{at}", got=text)


def _optional(error: Any, name: str) -> str:
    method = getattr(error, name, None)
    return str(method()) if method is not None else ""


def _member(enum: Any, name: str, option: str) -> Any:
    """A member of a library's enumeration, by its name."""
    members = [item for item in enum.__members__ if item not in ("NONE", "CURRENT")]
    if name.upper() not in members:
        raise BuildError(f"{option} is unknown to this version", got=name, expected=", ".join(members))
    return enum.__members__[name.upper()]


def _batch_range(name: str, shape: tuple[int, ...], batch: Any) -> list[list[int]]:
    if min(shape[1:], default=1) < 0:
        raise BuildError(
            f"input {name} has more free sides than the batch",
            got=str(shape),
            remedy="Give its smallest, best and largest shape with the option shapes",
        )
    return [[count, *shape[1:]] for count in batch]


def _check_range(name: str, shape: tuple[int, ...], ranges: list[list[int]]) -> None:
    for given in ranges:
        if len(given) != len(shape) or any(
            side not in (-1, wanted) for side, wanted in zip(shape, given, strict=True)
        ):
            raise BuildError(f"a shape for input {name} is wrong", got=str(given), expected=str(shape))


def _facts(tensor: Any) -> TensorFacts:
    names = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "FP8": "float8"}
    dtype = tensor.dtype.name
    return TensorFacts(
        name=tensor.name, dtype=names.get(dtype, dtype.lower()), shape=[int(side) for side in tensor.shape]
    )
