"""Exports MTCNN's networks with their real weights: proposals with the pyramid inside, refinement, landmarks.

The weights are those of `facenet-pytorch` (MIT, Copyright (c) 2019 Timothy Esler), of MTCNN (K. Zhang et al.
2016); nothing is trained here. `pip install --no-deps facenet-pytorch==2.6.0` brings them.

- `faces_proposals`: P-Net. The picture's smaller copies are made in the graph, so one run finds
  faces of all sizes, from 12 pixels of its input on: a detector like any other.
- `faces_refine`: R-Net, for squares of 24 pixels. `faces_landmarks`: O-Net, for 48, with five points.

python -m samples.training.faces
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, softmax

from edgecnn.demo import packaged
from edgecnn.detections import Detections
from edgecnn.export import export_onnx
from edgecnn.model import Model
from edgecnn.spec import ModelSpec, image_spec
from edgecnn.tasks._boxes import match_boxes
from samples.face_cascade import crops_of, refined, squares
from samples.training.loop import finish, open_precisions, parse

__all__ = ["NAMES", "Proposals", "Stage", "find_faces", "landmarks", "network_parts", "portraits", "refine"]

NAMES = ("faces_proposals", "faces_refine", "faces_landmarks")
INPUT_HW = (240, 320)
_SHRINK = 0.709  # from one copy to the next: half the area
_CELL, _STRIDE = 12, 2
_WEIGHTS = "weights of facenet-pytorch (MIT)"


class Proposals(nn.Module):
    """P-Net on a picture and its smaller copies: (1, 3, h, w) → boxes (1, A, 4) in input pixels, scores."""

    anchors: Tensor

    def __init__(self, size_hw: tuple[int, int] = INPUT_HW) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)
        self.load_state_dict(_packaged("pnet"))
        self.scales, scale = [], 1.0
        while min(size_hw) * scale >= _CELL:
            self.scales.append(scale)
            scale *= _SHRINK
        self.sizes = [[min(side, int(side * scale + 1)) for side in size_hw] for scale in self.scales]
        anchors = []
        for (height, width), scale in zip(self.sizes, self.scales, strict=True):
            rows, columns = (-(-(side - 2) // 2) - 4 for side in (height, width))
            y, x = np.mgrid[:rows, :columns].reshape(2, -1) * _STRIDE + 1.0  # MTCNN counts from one
            anchors.append(np.stack([x, y, x + (_CELL - 1), y + (_CELL - 1)]) / scale)
        self.register_buffer("anchors", torch.from_numpy(np.concatenate(anchors, 1)[None].astype(np.float32)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """All copies' boxes one after the other. Each copy is made of the one before the last: half as wide,
        which bilinear interpolation does as the mean of four pixels."""
        copies, boxes, scores = [image], [], []
        for size, scale in zip(self.sizes, self.scales, strict=True):
            if scale < 1:
                copies.append(interpolate(copies[-2:][0], size, mode="bilinear"))
            x = self.prelu1(self.conv1(copies[-1]))
            x = self.prelu3(self.conv3(self.prelu2(self.conv2(self.pool1(x)))))
            offsets = self.conv4_2(x)
            boxes.append((offsets * ((_CELL - 1) / scale)).flatten(2))
            scores.append(softmax(self.conv4_1(x), 1)[:, 1:].flatten(2))
        return (torch.cat(boxes, 2) + self.anchors).transpose(1, 2), torch.cat(scores, 2).transpose(1, 2)


class Stage(nn.Module):
    """R-Net or O-Net: (N, 3, s, s) → offsets of the box (N, 4), score (N, 1), O-Net's points (N, 10)."""

    def __init__(
        self, file: str, widths: Sequence[tuple[int, int, int]], hidden: int, heads: Sequence[int]
    ) -> None:
        super().__init__()
        layers: list[tuple[str, nn.Module]] = []
        channels, number = 3, 0
        for number, (width, kernel, pool) in enumerate(widths, start=1):
            layers += [
                (f"conv{number}", nn.Conv2d(channels, width, kernel)),
                (f"prelu{number}", nn.PReLU(width)),
            ]
            if pool:
                layers.append((f"pool{number}", nn.MaxPool2d(pool, 2, ceil_mode=True)))
            channels = width
        self.dense, self.act = nn.Linear(channels * 9, hidden), nn.PReLU(hidden)
        self.heads = nn.ModuleList(nn.Linear(hidden, width) for width in heads)
        weights = _packaged(file)
        last = number + 1
        renamed = {f"dense{last}": "dense", f"prelu{last}": "act"} | {
            f"dense{last + 1}_{head + 1}": f"heads.{head}" for head in range(len(heads))
        }
        self.features = nn.Sequential()
        for name, layer in layers:
            self.features.add_module(name, layer)
        state = {}
        for name, value in weights.items():
            part, _, kind = name.partition(".")
            state[f"{renamed.get(part, f'features.{part}')}.{kind}"] = value
        self.load_state_dict(state)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The dense layer's weights are in the order of columns, rows, channels."""
        x = self.features(image).permute(0, 3, 2, 1).flatten(1)
        x = self.act(self.dense(x))
        score, offsets, *points = (head(x) for head in self.heads)
        return offsets, softmax(score, 1)[:, 1:], *points


def refine() -> Stage:
    """R-Net."""
    return Stage("rnet", ((28, 3, 3), (48, 3, 3), (64, 2, 0)), 128, (2, 4))


def landmarks() -> Stage:
    """O-Net."""
    return Stage("onet", ((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)), 256, (2, 4, 10))


def _packaged(name: str) -> dict[str, Tensor]:
    path = packaged(f"facenet_pytorch/data/{name}.pt")
    found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def _spec(task: str, size_hw: tuple[int, int], **more: Any) -> ModelSpec:
    image = image_spec(
        "unit", size_hw=size_hw, interpolation="area", mean=(0.5,) * 3, std=(128 / 255,) * 3,
        resize="letterbox" if task == "detection" else "stretch",
    )  # fmt: skip
    return ModelSpec(task=task, image=image, **more)


def network_parts(
    names: Sequence[str] = NAMES,
) -> dict[str, tuple[nn.Module, ModelSpec, list[str]]]:
    """Name → network, its spec, names of its outputs; in the order in which they run."""
    head: dict[str, Any] = {"format": "boxes_scores", "boxes_output": "boxes", "scores_output": "scores"}
    detector = _spec("detection", INPUT_HW, labels=("face",), head=head | {"min_score": 0.6, "nms_iou": 0.7})
    parts: dict[str, tuple[Callable[[], nn.Module], ModelSpec, list[str]]] = {
        NAMES[0]: (Proposals, detector, ["boxes", "scores"]),
        NAMES[1]: (refine, _spec("raw", (24, 24)), ["offsets", "score"]),
        NAMES[2]: (landmarks, _spec("raw", (48, 48)), ["offsets", "score", "points"]),
    }
    return {name: (parts[name][0](), *parts[name][1:]) for name in names}


def portraits(count: int, *, seed: int) -> list[NDArray[np.uint8]]:
    """An astronaut's portrait in many framings, with LFW's small faces pasted in: (480, 640, 3) BGR."""
    portrait = np.asarray(cv2.imread(str(packaged("skimage/data/astronaut.png"))), np.uint8)
    faces = np.load(packaged("skimage/data/lfw_subset.npy"))[:100]
    found = []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        scale = random.uniform(0.7, 1.5)
        matrix: Any = cv2.getRotationMatrix2D((225, 120), random.uniform(-15, 15), scale)
        matrix[:, 2] += np.array([320, 240]) - (225, 120) + random.uniform(-80, 80, 2)
        frame: Any = cv2.warpAffine(portrait, matrix, (640, 480), borderMode=cv2.BORDER_REFLECT_101)
        for column in range(4):
            side = int(random.integers(60, 110))
            gray = np.clip(255 * faces[int(random.integers(100))], 0, 255).astype(np.uint8)
            face = cv2.resize(gray, (side, side), interpolation=cv2.INTER_CUBIC)
            y, x = (0, 370)[number % 2], 20 + 155 * column
            frame[y : y + side, x : x + side] = face[..., None]
        if number % 3 == 0:
            frame = cv2.flip(frame, 1)
        gained = frame * random.uniform(0.6, 1.2) + random.standard_normal(frame.shape) * random.uniform(0, 6)
        found.append(np.clip(gained, 0, 255).astype(np.uint8))
    return found


def find_faces(frame: NDArray[np.uint8], proposals: Model, *closer: Model) -> Detections:
    """All three networks on one frame (H, W, 3) BGR."""
    return refined(proposals(frame), frame, *closer)


def agreement(found: Sequence[Detections], wanted: Sequence[Detections]) -> dict[str, float]:
    """Of all faces that either found: how many both did; of those, the boxes' IoU and the close points."""
    both, total, ious, close = 0, 0, [], []
    for one, other in zip(found, wanted, strict=True):
        pairs = match_boxes(other, one)
        both += len(pairs)
        total += len(one) + len(other) - len(pairs)
        for theirs, mine in pairs:
            a, b = other.boxes_xyxy[theirs].astype(float), one.boxes_xyxy[mine].astype(float)
            shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
            ious.append(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))
            assert one.keypoints_xys is not None
            assert other.keypoints_xys is not None
            away = one.keypoints_xys[mine, :, :2] - other.keypoints_xys[theirs, :, :2]
            close += (np.hypot(*away.T) <= 0.03 * np.hypot(*(a[2:] - a[:2]))).tolist()
    return {
        "the same faces": both / max(1, total),
        "IoU of their boxes": float(np.mean(ious)) if ious else 0.0,
        "landmarks within 3 %": float(np.mean(close)) if close else 0.0,
    }


def main() -> None:
    """Export, calibrate and evaluate the three, each between the two others in FP32."""
    options = parse(__doc__, steps=1)
    torch.manual_seed(options.seed)
    frames = portraits(40, seed=options.seed + 1)  # to calibrate with
    tests = portraits(min(20, options.test_frames), seed=options.seed)
    parts = network_parts()
    with _opened(parts) as models:
        wanted = [find_faces(frame, *models) for frame in tests]
        print(f"{sum(map(len, wanted))} faces in {len(tests)} frames")
        cut: list[NDArray[np.uint8]] = []
        for frame in frames:
            found = models[0](frame)
            assert isinstance(found, Detections)
            cut += crops_of(frame, squares(found.boxes_xyxy))[1][:: max(1, len(found) // 8)]
        small = [np.asarray(cv2.resize(one, (48, 48), interpolation=cv2.INTER_AREA), np.uint8) for one in cut]
        for place, (name, (network, spec, outputs)) in enumerate(parts.items()):
            seen = small if place else frames

            def evaluate(model: Model, place: int = place) -> dict[str, float]:
                three = [*models[:place], model, *models[place + 1 :]]
                return agreement([find_faces(frame, *three) for frame in tests], wanted)

            about = f"{len(tests)} frames; against FP32, the two other networks in FP32"
            finish(
                network,
                spec,
                name=name,
                frames=seen[:400],
                evaluate=evaluate,
                training=_WEIGHTS,
                test_set=about,
                script="faces",
                output=options.output,
                output_names=outputs,
            )


@contextlib.contextmanager
def _opened(parts: Mapping[str, tuple[nn.Module, ModelSpec, list[str]]]) -> Iterator[list[Model]]:
    """The networks in FP32, before they are calibrated."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        models = []
        for name, (network, spec, outputs) in parts.items():
            path = Path(folder, f"{name}.onnx")
            export_onnx(network, spec, path, output_names=outputs)
            models.append(stack.enter_context(open_precisions(path, ["fp32"]))["fp32"])
        yield models


if __name__ == "__main__":
    main()
