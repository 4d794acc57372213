"""The preprocessor against its definition: resize the whole frame, cut or surround it, convert, normalize."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgecnn.errors import BackendUnavailableError, InputError
from edgecnn.preprocess import CACHED_PLANS, REACH_PX, TOLERANCE_PX, Preprocessor, check_frame
from edgecnn.spec import Color, ImageSpec, Interpolation, Layout, Resize, image_spec

Frame = NDArray[np.uint8]

POLICIES: tuple[Resize, ...] = get_args(Resize)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
COLORS: tuple[Color, ...] = get_args(Color)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
SIZES_HW = [
    (48, 64),
    (60, 80),
    (61, 83),
    (33, 47),
    (97, 31),
    (240, 320),
    (151, 402),
    (1, 1),
    (2, 300),
    (300, 2),
]


def make_spec(policy: Resize = "stretch", **options: Any) -> ImageSpec:
    """An input of 48 × 64 with constants that differ by channel, so that no exchange stays unnoticed."""
    colors = 1 if options.get("color") == "GRAY" else 3
    values = {
        "size_hw": (48, 64),
        "resize_hw": (60, 72) if policy == "crop" else None,
        "mean": (0.4, 0.5, 0.6)[:colors],
        "std": (0.2, 0.3, 0.25)[:colors],
        "pad_value": 37,
    }
    return ImageSpec(resize=policy, **{**values, **options})


def make_frame(height: int, width: int, channels: int = 3, *, seed: int = 0) -> Frame:
    """Noise, blurred: as a photo it has detail, and its neighbouring pixels are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    blurred = np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), np.uint8).reshape(noise.shape)
    return blurred[:, :, 0] if channels == 1 else blurred


def resized(frame: Frame, height: int, width: int, interpolation: Interpolation) -> Frame:
    """The whole frame in another size. `area` averages along a side that shrinks, else it is linear."""
    if interpolation == "area":
        shrunk = min(height, frame.shape[0]), min(width, frame.shape[1])
        frame = np.asarray(cv2.resize(frame, shrunk[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        interpolation = "linear"
    flags = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
    return np.asarray(cv2.resize(frame, (width, height), interpolation=flags[interpolation]), np.uint8)


def placed(spec: ImageSpec, frame: Frame) -> tuple[Frame, tuple[slice, slice]]:
    """The frame resized and cut, and the rows and columns of the input that it goes to."""
    (height, width), (h, w) = frame.shape[:2], spec.size_hw
    if spec.resize == "stretch":
        return resized(frame, h, w, spec.interpolation), (slice(0, h), slice(0, w))
    if spec.resize == "letterbox":
        factor = min(h / height, w / width)
        live_h, live_w = max(1, round(height * factor)), max(1, round(width * factor))
        top, left = (h - live_h) // 2, (w - live_w) // 2
        live = slice(top, top + live_h), slice(left, left + live_w)
        return resized(frame, live_h, live_w, spec.interpolation), live
    assert spec.resize_hw is not None
    cover_h, cover_w = spec.resize_hw
    if cover_h / height >= cover_w / width:
        cover_w = int(cover_h * width / height)
    else:
        cover_h = int(cover_w * height / width)
    top, left = round((cover_h - h) / 2.0), round((cover_w - w) / 2.0)
    whole = resized(frame, cover_h, cover_w, spec.interpolation)
    return whole[top : top + h, left : left + w], (slice(0, h), slice(0, w))


def normalized(spec: ImageSpec, image: NDArray[Any]) -> NDArray[np.float32]:
    """(…, C) in 0 … 255 → the network's numbers."""
    return np.asarray((image * spec.scale - np.array(spec.mean)) / np.array(spec.std), np.float32)


def reference(spec: ImageSpec, frame: Frame) -> NDArray[np.float32]:
    """One frame's input tensor, by the definition and without any haste."""
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[:, :, 0]
    image, live = placed(spec, frame)
    kind = "GRAY" if image.ndim == 2 else {3: "BGR", 4: "BGRA"}[image.shape[2]]
    if kind != spec.color:
        code = getattr(cv2, f"COLOR_{kind}2{spec.color}")
        image = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), code), np.uint8)
    canvas = np.full((*spec.size_hw, spec.channels), spec.pad_value, np.uint8)
    canvas[live] = image.reshape(*image.shape[:2], spec.channels)
    tensor = normalized(spec, canvas)
    return np.moveaxis(tensor, 2, 0) if spec.layout == "NCHW" else tensor


def levels(spec: ImageSpec, tensor: NDArray[np.float32]) -> NDArray[np.float64]:
    """A frame's input tensor as (H, W, C) in grey levels, 0 … 255."""
    hwc = tensor.transpose(1, 2, 0) if spec.layout == "NCHW" else tensor
    return np.asarray((hwc * np.array(spec.std) + np.array(spec.mean)) / spec.scale, np.float64)


# Grey levels, mean and largest difference, where the definition is not met to the last bit. A crop is in
# phase to 1/64 pixel of the input: an edge between 0 and 255 moves by 4 levels, `nearest` sometimes takes the
# pixel beside, and at a factor of 17 without averaging, 1/64 is a quarter of a frame's pixel. `area` averages
# with other weights than INTER_AREA. One pixel off, all of these are 6 to 40 on average.
CLOSE = {"nearest": (0.5, 255.0), "linear": (0.6, 16.0), "cubic": (0.6, 16.0), "area": (3.5, 60.0)}


def is_exact(spec: ImageSpec, frame: Frame) -> bool:
    """Whether the definition is met to the last bit: no crop out of phase, nothing averaged."""
    if spec.resize == "crop":
        return False
    height, width = placed(spec, frame)[0].shape[:2]
    return spec.interpolation != "area" or (height >= frame.shape[0] and width >= frame.shape[1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_equals_the_definition(
    policy: Resize, interpolation: Interpolation, color: Color, layout: Layout
) -> None:
    spec = make_spec(policy, interpolation=interpolation, color=color, layout=layout)
    preprocess = Preprocessor(spec)
    for (height, width), channels in itertools.product(SIZES_HW, (1, 3, 4)):
        frame = make_frame(height, width, channels)
        preprocess(frame)
        expected = reference(spec, frame)
        if is_exact(spec, frame):
            np.testing.assert_array_equal(preprocess.tensor[0], expected, err_msg=f"{frame.shape}")
        else:
            difference = np.abs(levels(spec, preprocess.tensor[0]) - levels(spec, expected))
            mean, worst = CLOSE[interpolation]
            assert difference.mean() <= mean, frame.shape
            assert difference.max() <= worst, frame.shape


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("color", COLORS)
def test_a_frame_that_fits_is_only_normalized(policy: Resize, color: Color) -> None:
    spec = make_spec(
        policy, color=color, interpolation="cubic", resize_hw=(48, 64) if policy == "crop" else None
    )
    for channels in (1, 3, 4):
        frame = make_frame(48, 64, channels)
        preprocess = Preprocessor(spec)
        preprocess(frame)
        np.testing.assert_array_equal(preprocess.tensor[0], reference(spec, frame))


def test_planted_pixels_by_hand() -> None:
    frame = np.array([[[0, 127, 255]]], np.uint8)  # B, G, R
    spec = make_spec(size_hw=(1, 1), scale=1.0, mean=(127.0, 127.0, 1.0), std=(128.0, 1.0, 2.0))
    preprocess = Preprocessor(spec)
    preprocess(frame)
    assert preprocess.tensor[0].ravel().tolist() == [(255 - 127) / 128, 127 - 127, (0 - 1) / 2]


@pytest.mark.parametrize("scale", [1 / 255, 1.0, 2 / 255])
def test_every_level_is_rounded_once(scale: float) -> None:
    """All 256 levels, against float64 arithmetic rounded to float32 at the end: equal to the last bit."""
    frame = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    spec = make_spec(size_hw=(16, 16), scale=scale)
    preprocess = Preprocessor(spec)
    preprocess(frame)
    np.testing.assert_array_equal(preprocess.tensor[0], normalized(spec, frame).transpose(2, 0, 1))


def views() -> Iterator[tuple[str, Frame]]:
    base = make_frame(120, 140, 4)
    yield "region", base[11:90, 7:111, :3]
    yield "upside down", base[::-1, :, :3]
    yield "mirrored", base[:, ::-1, :3]
    yield "RGB seen as BGR", base[:, :, 2::-1]
    yield "every other row and third column", base[::2, ::3, :3]
    yield "turned by 90 degrees", np.rot90(base[:, :, :3])
    yield "one channel", base[:, :, 1]
    yield "one channel, axis kept", base[:, :, 1:2]
    yield "broadcast", np.broadcast_to(base[:1, :, :3], (100, 140, 3))
    read_only = base[:, :, :3].copy()
    read_only.flags.writeable = False
    yield "read-only", read_only


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("name", "view"), list(views()), ids=[name for name, _ in views()])
def test_frames_need_not_be_contiguous(policy: Resize, layout: Layout, name: str, view: Frame) -> None:
    spec = make_spec(policy, layout=layout)
    viewed, copied = Preprocessor(spec), Preprocessor(spec)
    viewed(view)
    copied(view.copy())
    np.testing.assert_array_equal(viewed.tensor, copied.tensor, err_msg=name)
    # and where nothing is resized, so that the view itself is split and looked up
    fitting = make_spec(size_hw=view.shape[:2], layout=layout)
    unresized = Preprocessor(fitting)
    unresized(view)
    np.testing.assert_array_equal(unresized.tensor[0], reference(fitting, view.copy()), err_msg=name)


@pytest.mark.parametrize("color", COLORS)
def test_grey_frames_and_alpha(color: Color) -> None:
    """A grey frame is the colour frame with three equal channels; alpha is not looked at."""
    spec = make_spec("letterbox", color=color)
    grey = make_frame(100, 90, 1)
    alpha = make_frame(100, 90, 1, seed=1)
    tensors = []
    for frame in (grey, grey[:, :, None], np.dstack([grey] * 3), np.dstack([grey] * 3 + [alpha])):
        preprocess = Preprocessor(spec)
        preprocess(frame)
        tensors.append(preprocess.tensor)
    for tensor in tensors[1:]:
        np.testing.assert_array_equal(tensor, tensors[0])


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_extreme_frames(policy: Resize, interpolation: Interpolation) -> None:
    """Any size works, quickly and in little memory, and a picture of one colour keeps that colour."""
    options = {"size_hw": (224, 224), "resize_hw": (256, 256) if policy == "crop" else None}
    spec = make_spec(policy, interpolation=interpolation, **options)
    for shape in [(1, 1), (1, 5000), (5000, 1), (20, 60001), (40000, 3), (6000, 8000)]:
        frame = np.full((*shape, 3), (3, 140, 250), np.uint8)
        preprocess = Preprocessor(spec)
        tracemalloc.start()
        geometry = preprocess(frame)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64e6, (
            shape
        )  # the first halving of 48 megapixels takes 36 MB; resizing 20 × 60001 whole, 590 MB
        found = np.unique(levels(spec, preprocess.tensor[0]).round(3).reshape(-1, 3), axis=0).tolist()
        border = [] if policy != "letterbox" or shape == (1, 1) else [[37, 37, 37]]
        assert found == [*border, [250, 140, 3]], shape
        assert geometry.frame_hw == shape


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_used_preprocessor_equals_a_fresh_one(policy: Resize, layout: Layout) -> None:
    """Rows of the batch do not touch each other, and no border or buffer keeps anything of earlier frames."""
    spec = make_spec(policy, layout=layout, interpolation="linear")
    used = Preprocessor(spec, batch=3)
    expected = np.zeros_like(used.tensor)
    random = np.random.default_rng(7)
    sizes = [*SIZES_HW, (64, 48), (120, 160), (121, 160), (90, 240), (91, 240)]  # more than are cached
    for number in range(150):
        height, width = sizes[random.integers(len(sizes))]
        frame = make_frame(height, width, int(random.choice([1, 3, 4])), seed=number)
        index = int(random.integers(3))
        fresh = Preprocessor(spec)
        assert used(frame, index) == fresh(frame)
        expected[index] = fresh.tensor[0]
        np.testing.assert_array_equal(used.tensor, expected, err_msg=f"{number}: {frame.shape} in {index}")


def test_the_border_is_not_filled_again_while_the_geometry_stays() -> None:
    spec = make_spec("letterbox")
    preprocess = Preprocessor(spec, batch=2)
    wide, tall = make_frame(40, 120), make_frame(120, 40)
    preprocess(wide, 1)
    preprocess.tensor[1, :, 0, 0] = 99.0  # a mark in the border
    preprocess(wide, 1)
    preprocess(tall, 0)
    assert (preprocess.tensor[1, :, 0, 0] == 99.0).all()
    preprocess(tall, 1)
    np.testing.assert_array_equal(preprocess.tensor[1], reference(spec, tall))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("policy", POLICIES)
def test_steady_state_allocates_nothing_large(policy: Resize, color: Color, layout: Layout) -> None:
    """NumPy and OpenCV's bindings both report their arrays to tracemalloc."""
    sizes = {"size_hw": (224, 224), "resize_hw": (256, 256) if policy == "crop" else None}
    preprocess = Preprocessor(make_spec(policy, color=color, layout=layout, interpolation="area", **sizes))
    frames = [make_frame(720, 1280, channels) for channels in (1, 3, 4)] + [make_frame(481, 641)]
    address = preprocess.tensor.ctypes.data
    for frame in frames:
        preprocess(frame)
    tracemalloc.start()
    for frame in frames:
        preprocess(frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000  # the smallest buffer, one plane of the letterboxed frame, has 28 224 bytes
    assert preprocess.tensor.ctypes.data == address
    assert preprocess.tensor.flags.c_contiguous


def test_ever_new_frame_sizes_do_not_leak() -> None:
    preprocess = Preprocessor(make_spec(size_hw=(320, 320), interpolation="cubic"))

    def feed(widths: range) -> int:
        for width in widths:
            preprocess(np.zeros((50, width, 3), np.uint8))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    one_plan = feed(range(50, 51))
    after_a_few = feed(range(51, 51 + CACHED_PLANS))
    after_many = feed(range(100, 160))
    tracemalloc.stop()
    assert one_plan > 300_000  # or this test would see nothing
    assert after_many < after_a_few + one_plan


# ---- crop: torchvision's Resize(256) and CenterCrop(224) ----


def photos() -> dict[str, Frame]:
    """Real photos of several shapes, from scikit-image's package folder; {} where it is not installed."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        return {}
    names = ["astronaut.png", "coffee.png", "coins.png", "rocket.jpg", "motorcycle_left.png", "page.png"]
    paths = [Path(package.origin).parent / "data" / name for name in names]
    return {path.name: np.asarray(cv2.imread(str(path)), np.uint8) for path in paths if path.exists()}


PHOTOS = photos()
needs_photos = pytest.mark.skipif(not PHOTOS, reason="scikit-image, whose photos these are, is not installed")
SIZES_OF_CROPS = [(256, 224), (232, 224), (342, 299), (64, 64)]


def crop_spec(resize: int, size: int, interpolation: Interpolation) -> ImageSpec:
    return make_spec("crop", size_hw=(size, size), resize_hw=(resize, resize), interpolation=interpolation)


def torchvision_crop(frame_bgr: Frame, resize: int, size: int, resample: int) -> NDArray[np.float64]:
    """transforms.Resize(resize) and CenterCrop(size) on a PIL image, as torchvision's source has them."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame_bgr[:, :, ::-1]))
    width, height = image.size
    short, long = min(width, height), max(width, height)
    new_short, new_long = resize, int(resize * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    image = image.resize((new_width, new_height), Image.Resampling(resample))
    top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)), np.float64)


def shift_between(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how many pixels (x, y) picture `a` is shifted against `b`: least squares over the gradients."""
    smooth_a, smooth_b = (cv2.GaussianBlur(picture.mean(axis=2), (0, 0), 2.0) for picture in (a, b))
    dy, dx = np.gradient(smooth_b)
    inner = (slice(6, -6), slice(6, -6))
    gradients = np.stack([dx[inner].ravel(), dy[inner].ravel()], axis=1)
    shift = np.linalg.lstsq(gradients, (smooth_b - smooth_a)[inner].ravel(), rcond=None)[0]
    return np.asarray(shift, np.float64)


@needs_photos
@pytest.mark.parametrize(("resize", "size"), SIZES_OF_CROPS)
@pytest.mark.parametrize("name", PHOTOS)
def test_crop_is_torchvisions(name: str, resize: int, size: int) -> None:
    frame = PHOTOS[name]
    spec = crop_spec(resize, size, "area")
    preprocess = Preprocessor(spec)
    preprocess(frame)
    ours = levels(spec, preprocess.tensor[0])
    theirs = torchvision_crop(frame, resize, size, resample=2)  # bilinear, antialiased
    # PIL weighs with a triangle, `area` with a box half as wide: at edges they differ, on the whole little.
    # One pixel off, the same photos differ by 6 to 40 levels.
    assert np.abs(ours - theirs).mean() < 4.5
    assert np.abs(shift_between(ours, theirs)).max() < 0.06
    moved = np.roll(ours, 1, axis=1)
    assert shift_between(moved, theirs)[0] == pytest.approx(1.0, abs=0.15)  # the ruler measures


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("resize", "size"), SIZES_OF_CROPS)
@pytest.mark.parametrize("picture", [*PHOTOS, (1080, 1920), (1279, 721), (480, 640), (979, 246)], ids=str)
def test_crop_of_a_region_is_the_crop_of_the_whole(
    picture: str | tuple[int, int], resize: int, size: int, interpolation: Interpolation
) -> None:
    frame = PHOTOS[picture] if isinstance(picture, str) else make_frame(*picture)
    spec = crop_spec(resize, size, interpolation)
    preprocess = Preprocessor(spec)
    preprocess(frame)
    difference = np.abs(levels(spec, preprocess.tensor[0]) - levels(spec, reference(spec, frame)))
    mean, worst = CLOSE[interpolation]
    assert difference.mean() <= mean
    assert difference.max() <= worst


@pytest.mark.parametrize("interpolation", ["linear", "area"])
@pytest.mark.parametrize("resize_hw", [(256, 256), (232, 300), (300, 232), (224, 224), (768, 230)])
@settings(deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_geometry_of_a_crop_is_the_definitions(
    resize_hw: tuple[int, int], interpolation: Interpolation, height: int, width: int
) -> None:
    """Whatever region was read: the corners of the cut lie where resizing the whole frame would put them."""
    size = 224
    spec = make_spec("crop", size_hw=(size, size), resize_hw=resize_hw, interpolation=interpolation)
    geometry = Preprocessor(spec)(np.broadcast_to(np.uint8(7), (height, width)))
    # Python's integers: float64 would round 256 · w / h down where it is a whole number
    cover_h, cover_w = resize_hw
    if cover_h * width >= cover_w * height:
        cover_w = cover_h * width // height
    else:
        cover_h = cover_w * height // width
    left, top = round((cover_w - size) / 2), round((cover_h - size) / 2)
    corners = np.array([[left, top], [left + size, top + size]])
    scale_xy = np.array([cover_w / width, cover_h / height])
    error = np.abs(geometry.to_input(corners / scale_xy) - (corners - [left, top]))
    # the ends of the frame fit always; where they are out of reach, so may be every edge that fits
    in_reach = max(cover_h, cover_w) <= size + 2 * REACH_PX
    assert error.max() < (TOLERANCE_PX if in_reach else 0.5) + 1e-6


# ---- area: an average, whatever the factor ----

FACTORS_HW = [
    (480, 640),
    (481, 641),
    (720, 1280),
    (1080, 1920),
    (1081, 1923),
    (999, 3001),
    (301, 303),
    (150, 900),
]


def averaged(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A frame as 200 × 220 by `area`, and by OpenCV's INTER_AREA, in grey levels."""
    spec = make_spec(size_hw=(200, 220), interpolation="area")
    preprocess = Preprocessor(spec)
    preprocess(frame)
    ours = levels(spec, preprocess.tensor[0])[:, :, 0]
    return ours, resized(frame, 200, 220, "area").astype(np.float64)


@pytest.mark.parametrize("shape", FACTORS_HW)
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_area_leaves_nothing_of_the_finest_stripes(shape: tuple[int, int], axes: tuple[int, ...]) -> None:
    """Stripes and boards of one pixel become grey as they do with INTER_AREA; linear keeps them."""
    coordinates = np.indices(shape)[list(axes)].sum(axis=0)
    ours, opencvs = averaged((coordinates % 2 * 255).astype(np.uint8))
    assert np.abs(ours - 127.5).max() <= np.abs(opencvs - 127.5).max() + 8
    assert abs(ours.mean() - 127.5) < 1


@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_area_of_powers_of_two_is_the_average_of_blocks(exponent: int) -> None:
    block = 2**exponent
    frame = np.random.default_rng(5).integers(0, 256, (200 * block, 220 * block), np.uint8)
    ours, _ = averaged(frame)
    exact = frame.reshape(200, block, 220, block).mean(axis=(1, 3))
    assert np.abs(ours - exact).max() <= 0.5 * exponent + 1e-3  # each halving rounds


def test_area_crops_an_even_region_that_can_be_halved() -> None:
    """Cropping and halving may change places: a region of odd size would take the slow way and differ."""
    of_whole, of_half = (Preprocessor(crop_spec(256, 224, "area")) for _ in range(2))
    for height, width in [(1080, 1920), (720, 1280), (1078, 1914), (2160, 3840)]:
        frame = make_frame(height, width)
        of_whole(frame)
        of_half(
            np.asarray(cv2.resize(frame, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)
        )
        np.testing.assert_array_equal(of_whole.tensor, of_half.tensor)


@needs_photos
def test_area_is_as_close_to_pils_average_as_inter_area() -> None:
    ours, opencvs = [], []
    for (resize, size), frame in itertools.product([*SIZES_OF_CROPS, (120, 105)], PHOTOS.values()):
        spec = crop_spec(resize, size, "area")
        preprocess = Preprocessor(spec)
        preprocess(frame)
        theirs = torchvision_crop(frame, resize, size, resample=2)
        ours.append(np.abs(levels(spec, preprocess.tensor[0]) - theirs).mean())
        opencvs.append(np.abs(levels(spec, reference(spec, frame)) - theirs).mean())
    assert np.mean(ours) < np.mean(opencvs)


# ---- geometry: what is in the frame is found where the geometry says ----


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(1080, 1920), (719, 1281), (375, 500), (500, 333), (60, 90), (223, 225)])
def test_a_mark_is_where_geometry_says(
    policy: Resize, interpolation: Interpolation, shape: tuple[int, int]
) -> None:
    spec = make_spec(
        policy,
        size_hw=(160, 224),
        resize_hw=(192, 240) if policy == "crop" else None,
        interpolation=interpolation,
        pad_value=0,
    )
    preprocess = Preprocessor(spec)
    geometry = preprocess(np.zeros(shape, np.uint8))
    sigma = (
        min(shape) / 40
    )  # of a round mark, which is soft: without averaging, a sharp edge is found too late
    margin = 5 * sigma
    y, x = np.indices(shape) + 0.5
    visible = geometry.to_frame([[0, 0], [224, 160]]).clip(0, shape[::-1])
    for fraction_xy in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.4)]:
        mark_xy = visible[0] + margin + (visible[1] - visible[0] - 2 * margin) * fraction_xy
        mark = 255 * np.exp(-((x - mark_xy[0]) ** 2 + (y - mark_xy[1]) ** 2) / (2 * sigma**2))
        assert preprocess(mark.round().astype(np.uint8)) == geometry
        found = centroid(levels(spec, preprocess.tensor[0])[:, :, 0])
        # OpenCV's `nearest` rounds every edge of a pixel up to the next pixel of the input
        limit = 1.0 if interpolation == "nearest" else 0.06
        assert np.abs(found - geometry.to_input(mark_xy)).max() < limit, fraction_xy


def centroid(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x, y) of the centre of the light in a picture (H, W)."""
    y, x = np.indices(picture.shape) + 0.5
    moments = np.array([(picture * x).sum(), (picture * y).sum()])
    return np.asarray(moments / picture.sum(), np.float64)


@settings(deadline=None)
@given(
    frame_hw=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    size_hw=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    interpolation=st.sampled_from(INTERPOLATIONS),
    layout=st.sampled_from(LAYOUTS),
)
def test_letterbox_of_any_size(
    frame_hw: tuple[int, int], size_hw: tuple[int, int], interpolation: Interpolation, layout: Layout
) -> None:
    """The whole frame lies inside, touches two opposite sides, in the middle, and the rest is border."""
    spec = make_spec("letterbox", size_hw=size_hw, interpolation=interpolation, layout=layout)
    preprocess = Preprocessor(spec)
    geometry = preprocess(np.full((*frame_hw, 3), 200, np.uint8))
    (left, top), (right, bottom) = geometry.to_input([[0, 0], frame_hw[::-1]])
    expected = np.full((*size_hw, 3), spec.pad_value)
    expected[round(top) : round(bottom), round(left) : round(right)] = 200
    np.testing.assert_allclose(levels(spec, preprocess.tensor[0]), expected, atol=1e-3)
    np.testing.assert_allclose([left, top, right, bottom], np.round([left, top, right, bottom]), atol=1e-9)
    margins = np.array([left, size_hw[1] - right, top, size_hw[0] - bottom])
    assert margins.min() >= -1e-9
    assert min(margins[:2].sum(), margins[2:].sum()) < 1e-9
    assert -1e-9 <= margins[1] - margins[0] < 1 + 1e-9
    assert -1e-9 <= margins[3] - margins[2] < 1 + 1e-9


@settings(max_examples=200, deadline=None)
@given(
    frame_hw=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size_hw=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    resize_hw=st.tuples(st.integers(60, 90), st.integers(60, 90)),
    policy=st.sampled_from(POLICIES),
    color=st.sampled_from(COLORS),
    channels=st.sampled_from([1, 3, 4]),
)
def test_any_size_equals_the_definition(
    frame_hw: tuple[int, int],
    size_hw: tuple[int, int],
    resize_hw: tuple[int, int],
    policy: Resize,
    color: Color,
    channels: int,
) -> None:
    crop = resize_hw if policy == "crop" else None
    spec = make_spec(policy, size_hw=size_hw, resize_hw=crop, color=color, interpolation="linear")
    frame = make_frame(*frame_hw, channels)
    preprocess = Preprocessor(spec)
    preprocess(frame)
    expected = reference(spec, frame)
    if policy == "crop":  # 1/64 pixel out of phase at most, where neighbours differ by 100 levels at most
        difference = np.abs(levels(spec, preprocess.tensor[0]) - levels(spec, expected))
        assert difference.max() <= 2 + 1e-3
    else:
        np.testing.assert_array_equal(preprocess.tensor[0], expected)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (None, "NoneType"),
        ([[1, 2], [3, 4]], "list"),
        (np.zeros((4, 4, 3), np.float32), "float32 (4, 4, 3)"),
        (np.zeros((4, 4, 3), np.int8), "int8 (4, 4, 3)"),
        (np.zeros((4, 4, 2), np.uint8), "uint8 (4, 4, 2)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "uint8 (1, 4, 4, 3)"),
        (np.zeros((3, 4, 5), np.uint8), "uint8 (3, 4, 5)"),
        (np.zeros(4, np.uint8), "uint8 (4,)"),
        (np.zeros((), np.uint8), "uint8 ()"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 (0, 4, 3)"),
        (np.zeros((4, 0), np.uint8), "uint8 (4, 0)"),
    ],
)
def test_what_is_no_frame_is_refused(frame: Any, got: str) -> None:
    preprocess = Preprocessor(make_spec())
    for refuse in (check_frame, preprocess):
        with pytest.raises(InputError) as caught:
            refuse(frame)
        assert caught.value.got == got
        assert "uint8 (H, W, 3) BGR" in (caught.value.expected or "")
        assert str(caught.value).startswith("not a frame: got ")
    assert (preprocess.tensor == 0).all()


def test_opencv_is_imported_when_it_is_needed() -> None:
    code = "import sys, edgecnn.preprocess; sys.exit('cv2' in sys.modules)"
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_a_missing_opencv_is_reported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(BackendUnavailableError, match="OpenCV") as caught:
        Preprocessor(image_spec("yolo"))
    assert "edgecnn[cpu]" in (caught.value.remedy or "")
    assert "--system-site-packages" in (caught.value.remedy or "")
