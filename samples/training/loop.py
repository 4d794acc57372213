"""What the scripts that train share: the loop, and what becomes of a trained network.

    training = train(network, loss, steps=3000, seed=0)
    finish(network, spec, name="digits_detector", frames=frames, evaluate=evaluate, training=training)

`finish` exports, calibrates, evaluates every precision, and writes NAME.onnx and NAME.json into a folder, and
the table of all results there into its README.md. The scripts are run from the repository's root:

    python -m samples.training.digits_detector
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgecnn.backends.onnxruntime import OnnxRuntimeBackend
from edgecnn.calibration import calibrate
from edgecnn.cli.common import progress_bar
from edgecnn.export import export_onnx
from edgecnn.export.graph import to_bytes
from edgecnn.export.lowering import Precision, Target, lower_graph
from edgecnn.export.qdq import load_float_graph
from edgecnn.files import write_atomic
from edgecnn.model import Model
from edgecnn.spec import ModelSpec

__all__ = [
    "MODELS",
    "PRECISIONS",
    "Evaluate",
    "Training",
    "finish",
    "open_precisions",
    "parse",
    "table",
    "train",
]

MODELS = Path(__file__).parents[1] / "models"
Evaluate = Callable[[Model], Mapping[str, float]]
"""An open model → its metrics on the test set, 0 … 1, the one that counts first."""

PRECISIONS: Mapping[str, tuple[Precision, Target]] = {
    "fp32": ("fp32", "onnxruntime"),
    "fp16": ("fp16", "onnxruntime"),
    "int8": ("int8", "onnxruntime"),
    "int8_tensorrt": ("int8", "tensorrt"),  # symmetric, FP16 around INT8: what a Jetson computes
}
_AVERAGED_STEPS = 500  # the weights that are kept are the mean of about so many
_TABLE = "<!-- made by samples/training/loop.py -->"


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network was trained; what it takes to do it again.

    Attributes:
        seed: of the weights, and by the scripts' custom of the data.
        steps: how many were made.
        planned_steps: more than `steps` where Ctrl-C ended it.
        seconds: how long that took, wall clock.
    """

    seed: int
    steps: int
    planned_steps: int
    seconds: float


def parse(
    doc: str | None, *, steps: int, test_frames: int = 300, output: Path = MODELS
) -> argparse.Namespace:
    """The command line of a script that trains: `steps`, `seed`, `output` (a folder) and `test_frames`."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=steps, help="of the optimizer (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=output, help="folder for the model (%(default)s)")
    parser.add_argument("--test-frames", type=int, default=test_frames, help="to evaluate with (%(default)s)")
    return parser.parse_args()


def train(
    network: nn.Module,
    loss: Callable[[int], torch.Tensor],
    *,
    steps: int,
    seed: int = 0,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.01,
) -> Training:
    """Train with AdamW, a short warm-up and a cosine down to zero; the network ends with averaged weights.

    The weights are initialized by whoever makes the network: call `torch.manual_seed` before. Ctrl-C ends the
    training, and keeps the average so far.

    Args:
        network: trained in place; in evaluation mode afterwards.
        loss: number of the step → loss of a batch, with a graph behind it.
        steps: how many.
        seed: of what is random in the network, such as dropout.
        learning_rate: the highest.
        weight_decay: AdamW's; not for biases and batch norms.
    """
    torch.manual_seed(seed)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    decayed = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}],
        learning_rate,
    )
    warm_up = max(1, min(200, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warm_up) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    average = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    started, done, shown = perf_counter(), 0, 0.0
    try:
        for step in range(steps):
            value = loss(step)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            share = max(1 / _AVERAGED_STEPS, 1 / (1 + step / 5))  # at first the average follows quickly
            for name, now in network.state_dict().items():
                average[name] = average[name].lerp(now, share) if now.is_floating_point() else now.clone()
            done = step + 1
            shown += (float(value.detach()) - shown) / min(done, 50)
            if done % max(1, steps // 20) == 0:
                left = (perf_counter() - started) * (steps - done) / done
                print(f"step {done} of {steps}, loss {shown:.3g}, {left:.0f} s left", flush=True)
    except KeyboardInterrupt:
        print(f"interrupted after {done} steps; what was learned is kept", flush=True)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    network.load_state_dict(average)
    network.eval()
    return Training(seed=seed, steps=done, planned_steps=steps, seconds=perf_counter() - started)


def finish(
    network: nn.Module,
    spec: ModelSpec,
    *,
    name: str,
    frames: Sequence[NDArray[np.uint8]],
    evaluate: Evaluate,
    training: Training | str,
    test_set: str,
    script: str | None = None,
    output: Path = MODELS,
    output_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Export, calibrate and evaluate a trained network; write NAME.onnx, NAME.json and the table of all.

    Args:
        network: takes (1, C, H, W) as the spec says.
        spec: task, image, head, labels.
        name: of the files.
        frames: to calibrate with, all of one size, uint8 BGR; of those that were trained with.
        evaluate: the metrics of an open model.
        training: what `train` gave; or where the weights come from, in words.
        test_set: what the metrics were measured on, in words.
        script: name of the module that calls this; `name` where None.
        output: the folder.
        output_names: names for the outputs, in the network's order.

    Returns:
        What NAME.json holds.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{name}.onnx"
    how = {"weights": training} if isinstance(training, str) else asdict(training)
    source = {"script": f"samples/training/{script or name}.py", **how}
    source.pop("seconds", None)  # the same training gives the same file
    with tempfile.TemporaryDirectory() as folder, progress_bar() as progress:
        exported, seen = Path(folder, "exported.onnx"), Path(folder, "frames.npy")
        export_onnx(network, spec, exported, output_names=output_names, source=source, progress=progress)
        np.save(seen, np.stack(frames)[..., ::-1])  # RGB
        calibration = calibrate(exported, seen, path, force=True, progress=progress)
    for warning in calibration.warnings:
        print(f"calibration: {warning}")
    metrics: dict[str, dict[str, float]] = {}
    with open_precisions(path) as models:
        for precision, model in models.items():
            metrics[precision] = {key: round(value, 5) for key, value in evaluate(model).items()}
            print(f"{precision}: {metrics[precision]}", flush=True)
    fp32 = metrics["fp32"]
    result = {
        "name": name,
        "task": spec.task,
        "script": source["script"],
        **how,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "bytes": path.stat().st_size,
        "test_set": test_set,
        "metrics": metrics,
        "int8_loss_points": {  # on the worse of the two grids
            key: round(100 * max(fp32[key] - metrics[grid][key] for grid in ("int8", "int8_tensorrt")), 2)
            for key in fp32
        },
    }
    write_atomic(output / f"{name}.json", f"{json.dumps(result, indent=1)}\n".encode(), force=True)
    _write_table(output)
    return result


@contextlib.contextmanager
def open_precisions(path: Path, precisions: Sequence[str] = tuple(PRECISIONS)) -> Iterator[dict[str, Model]]:
    """A calibrated model in each of `PRECISIONS`, open on the CPU.

    What TensorRT gets is computed node by node as written: ONNX Runtime's optimizer garbles such graphs.
    """
    graph = load_float_graph(path)
    with contextlib.ExitStack() as stack:
        models = {}
        for name in precisions:
            precision, target = PRECISIONS[name]
            lowered = to_bytes(lower_graph(graph, precision, target=target))
            backend = OnnxRuntimeBackend(lowered, optimized=target == "onnxruntime")
            models[name] = stack.enter_context(Model(backend, name=f"{path.name} in {name}"))
        yield models


def table(folder: Path = MODELS) -> str:
    """The results in a folder as a table in Markdown, one row a metric."""
    rows = [
        "| model | size | trained | metric | FP32 | FP16 | INT8 | INT8, TensorRT | INT8 loses, points |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        about = [
            f"[{result['name']}](../training/{Path(result['script']).name})",
            f"{result['parameters'] / 1e3:.0f} k parameters, {result['bytes'] / 1e3:.0f} kB",
            result.get("weights") or "seed {seed}, {steps} steps, {seconds:.0f} s".format(**result),
        ]
        for metric, loss in result["int8_loss_points"].items():
            values = [f"{100 * result['metrics'][precision][metric]:.2f}" for precision in PRECISIONS]
            rows.append("| " + " | ".join([*about, metric, *values, f"{loss:.2f}"]) + " |")
            about = ["", "", ""]
    return "\n".join(rows)


def _write_table(folder: Path) -> None:
    """Put the table into README.md between its two marks, where there is such a file."""
    readme = folder / "README.md"
    if not readme.exists():
        return
    parts = re.split(re.escape(_TABLE), readme.read_text())
    if len(parts) == 3:
        text = f"{parts[0]}{_TABLE}\n\n{table(folder)}\n\n{_TABLE}{parts[2]}"
        write_atomic(readme, text.encode(), force=True)
