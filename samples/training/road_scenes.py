"""Rendered road scenes whose geometry is known exactly, pixel by pixel.

A pinhole camera stands at a height above a flat road and looks down by its pitch. The road's centre line is
a clothoid, to third order in the distance Z ahead:

    x(Z) = -offset - heading · Z + curvature · Z² / 2 + bend · Z³ / 6        metres, to the right

where `offset` is how far the vehicle is right of its lane's middle, and `heading` how far it points to the
right of the lane's direction. Each pixel's ray meets the ground at (X, Z); from X - x(Z) follows which lane,
line or verge it shows. Lines are drawn by the part of the pixel that they cover: they fade as real ones do.

    scene = Scene.random(rng, textures)
    view = render(scene, Pose(offset_m=0.2), size_hw=(192, 320))
    view.image_bgr, view.drivable, view.lanes

`drive` moves along such a road and gives the frames of a video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Line", "Pose", "Scene", "View", "drive", "render"]

FARTHEST_M = 60.0  # beyond, lines are thinner than the truth could be
LANE_LABEL_M = 0.12  # half the width of a line in the truth, and never below LANE_LABEL_PX
LANE_LABEL_PX = 1.5


@dataclass(frozen=True)
class Line:
    """A painted line between lanes or at the edge, `at` metres right of the ego lane's middle."""

    at_m: float
    dashed: bool
    bgr: tuple[float, float, float]
    width_m: float = 0.13


@dataclass(frozen=True)
class Box:
    """A vehicle, or something beside the road: a block that stands on the ground.

    `speed_mps` is along the road; `texture` is the number of a photo, or -1 for a vehicle's plain paint.
    """

    at_m: float
    ahead_m: float
    size_whl_m: tuple[float, float, float]
    bgr: tuple[float, float, float]
    speed_mps: float = 0.0
    texture: int = -1


@dataclass(frozen=True)
class Pose:
    """Where the vehicle is on its road, and how the road bends ahead of it."""

    offset_m: float = 0.0
    heading_rad: float = 0.0
    curvature_per_m: float = 0.0
    bend_per_m2: float = 0.0
    travelled_m: float = 0.0
    time_s: float = 0.0

    def centre_m(self, ahead_m: Any) -> Any:
        """How far right of the camera the ego lane's middle is, so many metres ahead."""
        z = ahead_m
        return (
            -self.offset_m
            - self.heading_rad * z
            + z * z * (self.curvature_per_m / 2 + z * self.bend_per_m2 / 6)
        )


@dataclass(frozen=True)
class View:
    """A picture (H, W, 3) BGR and its truth: the drivable area and the lines, (H, W) uint8 of 0 and 1."""

    image_bgr: NDArray[np.uint8]
    drivable: NDArray[np.uint8]
    lanes: NDArray[np.uint8]
    pose: Pose


@dataclass(frozen=True, eq=False)
class Scene:
    """A road, what stands on it and beside it, the light and the camera.

    Attributes:
        left_m, right_m: the asphalt's edges, from the ego lane's middle.
        focal: in widths of the picture.
        asphalt, verge: (texture number, mean level) and (texture number, BGR).
        light: gain, gamma, and gain of B, G and R.
        shadows: rows of (cycles a metre across, along, phase, threshold, darkness).
        textures: photos, (H, W, 3) uint8.
    """

    textures: Sequence[NDArray[np.uint8]]
    lines: tuple[Line, ...]
    boxes: tuple[Box, ...]
    left_m: float
    right_m: float
    height_m: float = 1.35
    pitch_rad: float = 0.06
    roll_rad: float = 0.0
    focal: float = 0.75
    asphalt: tuple[int, float] = (0, 100.0)
    verge: tuple[int, tuple[float, float, float]] = (0, (60.0, 110.0, 90.0))
    sky: tuple[tuple[float, float, float], tuple[float, float, float]] = (
        (220.0, 180.0, 150.0),
        (235.0, 225.0, 220.0),
    )
    backdrop: tuple[int, float] = (0, 0.1)
    light: tuple[float, float, tuple[float, float, float]] = (1.0, 1.0, (1.0, 1.0, 1.0))
    shadows: tuple[tuple[float, float, float, float, float], ...] = ()
    wear: float = 0.2
    blur_px: float = 0.5
    noise: float = 3.0
    seed: int = 0
    gray_cache: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    @classmethod
    def random(cls, rng: np.random.Generator, textures: Sequence[NDArray[np.uint8]]) -> Scene:
        """A scene like no other; the same generator state and textures give the same one."""
        width = rng.uniform(3.0, 3.8)
        left, right = int(rng.integers(0, 3)), int(rng.integers(0, 3))
        shoulder = rng.uniform(0.15, 1.2, 2)
        left_m, right_m = -(left + 0.5) * width - shoulder[0], (right + 0.5) * width + shoulder[1]
        lines = []
        yellow = rng.random() < 0.35
        for index in range(-left, right + 2):
            edge = index in (-left, right + 1)
            if edge and rng.random() < 0.12:
                continue
            level = rng.uniform(165, 250)
            paint = (
                (level * 0.35, level * 0.8, level * 0.95)
                if yellow and index <= 0 and rng.random() < 0.7
                else (level,) * 3
            )
            dashed = bool(rng.random() < (0.1 if edge else 0.75))
            lines.append(Line((index - 0.5) * width, dashed, paint, rng.uniform(0.1, 0.18)))

        def pick() -> int:
            return int(rng.integers(len(textures)))

        boxes = []
        for _ in range(rng.poisson(1.4)):
            tall = rng.random() < 0.2
            size = (
                (2.4, rng.uniform(2.6, 3.6), 8.0)
                if tall
                else (rng.uniform(1.65, 1.95), rng.uniform(1.35, 1.8), 4.2)
            )
            lane = int(rng.integers(-left, right + 1))
            at = lane * width + rng.normal(0, 0.25)
            ahead = rng.uniform(9, 55) if lane == 0 else rng.uniform(5, 55)
            paint = tuple(rng.uniform(15, 235) + rng.normal(0, 30, 3))
            boxes.append(Box(at, ahead, size, _bgr(paint), rng.uniform(8, 16)))
        for _ in range(rng.poisson(5)):
            side = rng.choice([-1, 1])
            thin = rng.random() < 0.5
            wide = rng.uniform(0.1, 0.35) if thin else rng.uniform(1.5, 9)
            edge_m = right_m if side > 0 else left_m
            at = edge_m + side * (0.5 + wide / 2 + rng.exponential(4))
            size = (wide, rng.uniform(2, 6), wide)
            boxes.append(
                Box(at, rng.uniform(4, 60), size, _bgr(rng.uniform(20, 200, 3)), 0, -1 if thin else pick())
            )
        green = rng.random() < 0.6
        verge = rng.uniform(0.5, 1.5) * np.array([45, 95, 75] if green else rng.uniform(60, 130, 3))
        sky = rng.uniform(120, 250) + np.array([30, 5, -15]) * rng.uniform(0, 1.5)
        shadows = tuple(
            (
                rng.normal(0, 0.12),
                rng.normal(0, 0.08),
                rng.uniform(0, 6.3),
                rng.uniform(0.2, 0.9),
                rng.uniform(0.4, 0.8),
            )
            for _ in range(rng.integers(0, 4))
        )
        return cls(
            textures, tuple(lines), tuple(boxes), left_m, right_m,
            height_m=rng.uniform(1.2, 1.6), pitch_rad=rng.uniform(0.02, 0.12), roll_rad=rng.normal(0, 0.012),
            focal=rng.uniform(0.65, 0.95),
            asphalt=(pick(), rng.uniform(55, 150)), verge=(pick(), _bgr(verge)),
            sky=(_bgr(sky), _bgr(sky + rng.uniform(0, 40))), backdrop=(pick(), rng.uniform(0.02, 0.25)),
            light=(rng.uniform(0.5, 1.3), rng.uniform(0.7, 1.4), _bgr(rng.normal(1, 0.06, 3))),
            shadows=shadows, wear=rng.uniform(0, 0.5), blur_px=rng.uniform(0, 1.1), noise=rng.uniform(0, 7),
            seed=int(rng.integers(2**31)),
        )  # fmt: skip


def random_pose(rng: np.random.Generator) -> Pose:
    """Within the lane, mostly; roads with radii down to about 60 m."""
    bend = rng.normal(0, 0.004)
    return Pose(rng.normal(0, 0.45), rng.normal(0, 0.05), bend, rng.normal(0, 0.0001), rng.uniform(0, 100))


def render(scene: Scene, pose: Pose, *, size_hw: tuple[int, int] = (192, 320)) -> View:
    """Draw what the camera sees. The same scene, pose and size give the same picture."""
    width = size_hw[1]
    across, down, ahead = _rays(scene, size_hw)
    on_ground = (down > 1e-3) & (ahead * scene.height_m < 250 * down)
    scale = np.where(on_ground, scene.height_m / np.maximum(down, 1e-3), 0).astype(np.float32)
    x, z = across * scale, np.maximum(ahead * scale, 0)
    pixel_m = scale / (scene.focal * width)  # a pixel's width on the ground
    side = x - pose.centre_m(np.minimum(z, 150)).astype(np.float32)  # from the ego lane's middle
    along = z + np.float32(pose.travelled_m)

    road = _covered(side - scene.left_m, pixel_m) * _covered(scene.right_m - side, pixel_m)
    canvas = _ground(scene, side, along, z, road)
    lanes = np.zeros(size_hw, bool)
    for line in scene.lines:
        away = np.abs(side - line.at_m)
        lanes |= away < np.maximum(LANE_LABEL_M, LANE_LABEL_PX * pixel_m)
        paint = np.clip((line.width_m / 2 - away) / np.maximum(pixel_m, 1e-4) + 0.5, 0, 1) * np.minimum(
            1, line.width_m / np.maximum(pixel_m, 1e-4)
        )
        if line.dashed:
            paint = paint * (np.mod(along, 9.0) < 3.5)
        worn = 1 - scene.wear * _grain(scene, scene.asphalt[0], side * 3 + 7, along * 3, 12)
        canvas += (paint * worn)[..., None] * (np.array(line.bgr, np.float32) - canvas)
    for across_m, along_m, phase, above, dark in scene.shadows:
        wave = np.sin(6.28 * (across_m * side + along_m * along) + phase + np.sin(side * 0.9 + along * 0.5))
        canvas *= np.where(wave > above, np.float32(dark), np.float32(1))[..., None]

    drivable = on_ground & (side > scene.left_m) & (side < scene.right_m) & (z < FARTHEST_M)
    lanes &= on_ground & (z < FARTHEST_M)
    canvas = np.where(on_ground[..., None], canvas, _sky(scene, down))
    hidden = np.zeros(size_hw, np.uint8)
    for box in sorted(scene.boxes, key=lambda box: -_distance(box, pose)):
        _draw_box(canvas, hidden, scene, pose, box)
    free = hidden == 0
    return View(
        _exposed(scene, pose, canvas),
        (drivable & free).astype(np.uint8),
        (lanes & free).astype(np.uint8),
        pose,
    )


def drive(
    scene: Scene, *, frames: int, fps: float = 30.0, size_hw: tuple[int, int] = (192, 320), seed: int = 0
) -> Iterator[View]:
    """Drive along a winding road at 12 m/s, weaving a little: one view a frame of a video."""
    rng = np.random.default_rng(seed)
    swing, drift = rng.uniform(0, 6.28, 3), rng.uniform(0, 6.28, 3)
    for index in range(frames):
        time = index / fps
        s = 12.0 * time
        waves = np.array([0.011, 0.027, 0.043])  # radians a metre
        bend = 0.003 * np.sin(waves * s + swing)
        sway = np.array([0.35, 0.12, 0.05])
        rates = np.array([0.03, 0.09, 0.21])
        yield render(
            scene,
            Pose(
                offset_m=float((sway * np.sin(rates * s + drift)).sum()),
                heading_rad=float((sway * rates * np.cos(rates * s + drift)).sum()),
                curvature_per_m=float(bend.sum()),
                bend_per_m2=float((0.003 * waves * np.cos(waves * s + swing)).sum()),
                travelled_m=s,
                time_s=time,
            ),
            size_hw=size_hw,
        )


def _rays(scene: Scene, size_hw: tuple[int, int]) -> tuple[NDArray[np.float32], ...]:
    """Right, down and ahead components of each pixel's ray, in the vehicle's axes."""
    height, width = size_hw
    focal = scene.focal * width
    u = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / focal)[None]
    v = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) / focal)[:, None]
    sin, cos = np.float32(np.sin(scene.roll_rad)), np.float32(np.cos(scene.roll_rad))
    u, v = cos * u - sin * v, sin * u + cos * v
    sin, cos = np.float32(np.sin(scene.pitch_rad)), np.float32(np.cos(scene.pitch_rad))
    return u, cos * v + sin, cos - sin * v


def _to_pixels(scene: Scene, points: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[np.float64]:
    """(n, 3) metres right, up from the ground, ahead → (n, 2) pixels: the inverse of `_rays`."""
    height, width = size_hw
    right, down, ahead = points[:, 0], scene.height_m - points[:, 1], points[:, 2]
    sin, cos = np.sin(scene.pitch_rad), np.cos(scene.pitch_rad)
    depth = ahead * cos + down * sin
    u, v = right / depth, (down * cos - ahead * sin) / depth
    sin, cos = np.sin(scene.roll_rad), np.cos(scene.roll_rad)
    u, v = cos * u + sin * v, -sin * u + cos * v
    focal = scene.focal * width
    return np.stack([u * focal + width / 2, v * focal + height / 2], axis=1)


def _covered(inside_m: NDArray[np.float32], pixel_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """Which part of a pixel lies on the positive side of an edge."""
    return np.clip(inside_m / np.maximum(pixel_m, 1e-4) + 0.5, 0, 1)


def _grain(scene: Scene, texture: int, x: NDArray[Any], y: NDArray[Any], per_m: float) -> NDArray[np.float32]:
    """A photo's brightness as a texture on the ground, in 0 … 1, repeated."""
    gray = scene.gray_cache.get(texture)
    if gray is None:
        photo = cv2.cvtColor(scene.textures[texture], cv2.COLOR_BGR2GRAY).astype(np.float32)
        photo -= cv2.GaussianBlur(photo, (0, 0), 12)
        gray = scene.gray_cache[texture] = np.clip(0.5 + photo / (6 * photo.std() + 1), 0, 1).astype(
            np.float32
        )
    rows, columns = gray.shape
    grain: NDArray[np.float32] = gray[
        (y * per_m).astype(np.int32) % rows, (x * per_m).astype(np.int32) % columns
    ]
    return grain


def _ground(scene: Scene, side: Any, along: Any, z: Any, road: Any) -> NDArray[np.float32]:
    """Asphalt, its seams and stains, and the verge; grain fades with the distance."""
    fade = np.exp(-z / 12)
    fine = (_grain(scene, scene.asphalt[0], side, along, 25) - 0.5) * fade
    coarse = _grain(scene, scene.asphalt[0], side, along, 4) - 0.5
    tracks = np.cos(side * 3.6) * 5
    asphalt = scene.asphalt[1] * (1 + 0.45 * fine + 0.25 * coarse) + tracks
    verge = 1 + 1.1 * (_grain(scene, scene.verge[0], side, along, 14) - 0.5) * (0.4 + 0.6 * fade)
    verge += 0.5 * (_grain(scene, scene.verge[0], side, along, 2.5) - 0.5)
    canvas: Any = verge[..., None] * np.array(scene.verge[1], np.float32)
    canvas += road[..., None] * (asphalt[..., None] * np.array([1.03, 1.0, 0.98], np.float32) - canvas)
    ground: NDArray[np.float32] = canvas.astype(np.float32)
    return ground


def _sky(scene: Scene, down: NDArray[np.float32]) -> NDArray[np.float32]:
    """From the zenith's colour to the horizon's, behind a strip of a photo, as of woods or houses."""
    rise = np.clip(-down / 0.5, 0, 1)[..., None]
    low, high = np.array(scene.sky[1], np.float32), np.array(scene.sky[0], np.float32)
    sky = low + rise * (high - low)
    number, tall = scene.backdrop
    rows, columns = down.shape
    photo = cv2.resize(scene.textures[number], (columns, rows), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    outline = tall * (0.5 + photo[rows // 2, :, 1] / 255)
    painted: NDArray[np.float32] = np.where((-down < outline[None])[..., None], photo * 0.7, sky).astype(
        np.float32
    )
    return painted


def _distance(box: Box, pose: Pose) -> float:
    """Metres ahead; what stands still comes again every 70 m, vehicles keep within sight."""
    if box.speed_mps:
        return 6 + (box.ahead_m + (box.speed_mps - 12.0) * pose.time_s * 0.3 - 6) % 54
    return 3 + (box.ahead_m - pose.travelled_m - 3) % 70


def _draw_box(
    canvas: NDArray[np.float32], hidden: NDArray[np.uint8], scene: Scene, pose: Pose, box: Box
) -> None:
    size_hw = hidden.shape
    near = _distance(box, pose)
    wide, tall, long = box.size_whl_m
    ends = np.array([near, near + long])
    middle = box.at_m + pose.centre_m(ends)
    corner = {
        (side, up, end): (middle[end] + side * wide / 2, up * tall, ends[end])
        for side in (-1, 1) for up in (0, 1) for end in (0, 1)
    }  # fmt: skip

    def face(*names: tuple[int, int, int]) -> NDArray[np.int32]:
        points = _to_pixels(scene, np.array([corner[name] for name in names]), size_hw)
        return np.round(points.clip(-4000, 4000) * 16).astype(np.int32)

    def fill(polygon: NDArray[np.int32], bgr: Any) -> None:
        cv2.fillConvexPoly(canvas, polygon, tuple(float(value) for value in bgr), cv2.LINE_AA, 4)
        cv2.fillConvexPoly(hidden, polygon, 1, cv2.LINE_8, 4)

    paint = np.array(box.bgr)
    if box.speed_mps:
        ground = face((-1, 0, 0), (1, 0, 0), (1, 0, 1), (-1, 0, 1))
        shade = np.ones(size_hw, np.float32)
        cv2.fillConvexPoly(shade, ground + np.array([0, 24]), 0.4, cv2.LINE_AA, 4)
        canvas *= shade[..., None]
    inner = 1 if middle[0] < 0 else -1  # the side that the camera sees
    fill(face((inner, 0, 0), (inner, 1, 0), (inner, 1, 1), (inner, 0, 1)), paint * 0.7)
    rear = face((-1, 0, 0), (1, 0, 0), (1, 1, 0), (-1, 1, 0))
    fill(rear, paint)
    left, top = rear.min(axis=0) / 16
    right, bottom = rear.max(axis=0) / 16
    if box.texture >= 0:
        _paste(canvas, scene.textures[box.texture], left, top, right, bottom)
    elif box.speed_mps:
        w, h = right - left, bottom - top
        for x1, y1, x2, y2, bgr in (
            (0.12, 0.08, 0.88, 0.42, (60, 50, 45)), (0.03, 0.5, 0.2, 0.62, (40, 40, 190)),
            (0.8, 0.5, 0.97, 0.62, (40, 40, 190)),
            (0.02, 0.86, 0.2, 1.0, (20, 20, 20)), (0.8, 0.86, 0.98, 1.0, (20, 20, 20)),
        ):  # fmt: skip
            corners = np.array([(left + w * x1, top + h * y1), (left + w * x2, top + h * y2)]) * 16
            first, last = corners.astype(int).tolist()
            cv2.rectangle(canvas, first, last, bgr, -1, cv2.LINE_AA, 4)


def _paste(canvas: NDArray[np.float32], photo: NDArray[np.uint8], *edges: float) -> None:
    left, top, right, bottom = (round(edge) for edge in edges)
    if right - left < 2 or bottom - top < 2 or right - left > 2000 or bottom - top > 2000:
        return
    scaled = cv2.resize(photo, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    rows, columns = (
        slice(max(top, 0), min(bottom, len(canvas))),
        slice(max(left, 0), min(right, canvas.shape[1])),
    )
    if rows.start < rows.stop and columns.start < columns.stop:
        canvas[rows, columns] = scaled[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]


def _exposed(scene: Scene, pose: Pose, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The light, the lens and the sensor."""
    gain, gamma, balance = scene.light
    if scene.blur_px > 0.3:
        canvas = np.asarray(
            cv2.GaussianBlur(canvas, (0, 0), scene.blur_px * canvas.shape[1] / 320), np.float32
        )
    levels = np.clip(canvas * (gain * np.array(balance, np.float32)) / 255, 0, 1) ** np.float32(gamma) * 255
    rng = np.random.default_rng([scene.seed, int(pose.time_s * 1000)])
    levels += scene.noise * rng.standard_normal(levels.shape, np.float32)
    picture: NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)
    return picture


def _bgr(values: Any) -> tuple[float, float, float]:
    blue, green, red = (float(value) for value in values)
    return blue, green, red
