from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgecnn.camera import image_files, open_camera, read_image
from edgecnn.camera.images import natural_key
from edgecnn.errors import SourceError
from tests.colours import solid


def write(path: Path, image: NDArray[np.integer[Any] | np.floating[Any]]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def photo_jpeg(photos: Path) -> bytes:
    return (photos / "rocket.jpg").read_bytes()


def test_natural_order() -> None:
    ordered = [
        "a/2.jpg",
        "a/10.jpg",
        "a/img2b.jpg",
        "a/img2c.jpg",
        "a/img010.jpg",
        "b/1.jpg",
        "b/B.jpg",
        "b/c.jpg",
    ]
    shuffled = ordered.copy()
    random.Random(0).shuffle(shuffled)
    assert sorted(shuffled, key=natural_key) == ordered


def test_a_folder_gives_its_images_and_nothing_else(tmp_path: Path) -> None:
    for name in ("10.png", "9.PNG", "1.jpg", "._1.jpg", ".hidden.png"):
        write(tmp_path / name.lower(), solid("red")).rename(tmp_path / name)
    write(tmp_path / "deeper" / "2.png", solid("red"))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in image_files(tmp_path)] == ["1.jpg", "9.PNG", "10.png"]
    with open_camera(tmp_path) as source:
        assert source.frame_count == 3
        frames = list(source)
    assert [frame.path for frame in frames] == image_files(tmp_path)
    assert frames[1].source == str(tmp_path / "9.PNG")


def test_a_pattern_reaches_deeper(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a/c/1.png", "3.png"):
        write(tmp_path / name, solid("red"))
    (tmp_path / "a" / "readme.png.txt").write_text("no image")
    found = [str(path.relative_to(tmp_path)) for path in image_files(f"{tmp_path}/**/*")]
    assert found == ["3.png", "a/c/1.png", "b/2.png", "b/10.png"]


@pytest.mark.parametrize(
    ("names", "pattern", "said"),
    [
        ([], "", "no images in .*: got no files, expected .*"),
        (["a.txt", "b.csv"], "", "got 2 other files"),
        (["deep/a.png"], "", r"\*\*/\*.jpg"),
        (["a.txt"], "/*.txt", "got 1 other matches"),
        ([], "/*.png", "got no match"),
    ],
)
def test_no_images(tmp_path: Path, names: list[str], pattern: str, said: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceError, match=said):
        open_camera(f"{tmp_path}{pattern}")


def test_real_photos_are_what_opencv_reads(photos: Path) -> None:
    for name in ("astronaut.png", "rocket.jpg", "camera.png", "chelsea.png", "logo.png", "color.png"):
        np.testing.assert_array_equal(read_image(photos / name), cv2.imread(str(photos / name)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_imread_does(tmp_path: Path, photos: Path, orientation: int) -> None:
    path = tmp_path / "turned.jpg"
    with Image.open(photos / "rocket.jpg") as photo:
        exif = photo.getexif()
        exif[0x0112] = orientation
        photo.save(path, exif=exif)
    image = read_image(path)
    np.testing.assert_array_equal(image, cv2.imread(str(path)))
    assert image.shape == ((427, 640, 3) if orientation < 5 else (640, 427, 3))


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 257 // 2, dtype=np.uint16)[:510].reshape(17, 30)
    path = write(tmp_path / "deep.png", np.dstack([values] * 3))
    np.testing.assert_array_equal(read_image(path)[:, :, 0], values >> 8)
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_pixels_are_refused_in_words(tmp_path: Path, dtype: type) -> None:
    path = write(tmp_path / "float.tiff", np.ones((4, 4, 3), dtype))
    with pytest.raises(SourceError, match=f"got {np.dtype(dtype)} pixels, expected 8 or 16 bits"):
        read_image(path)


def test_grey_and_transparent_images_become_bgr(tmp_path: Path) -> None:
    grey = write(tmp_path / "grey.png", np.full((4, 5), 77, np.uint8))
    np.testing.assert_array_equal(read_image(grey), np.full((4, 5, 3), 77))
    bgra = np.full((4, 5, 4), (1, 2, 3, 0), np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "clear.png", bgra)), bgra[:, :, :3])


@pytest.mark.parametrize("share", [0.02, 0.3, 0.999])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_is_never_taken_for_a_picture(
    tmp_path: Path, photos: Path, share: float, progressive: bool
) -> None:
    with Image.open(photos / "rocket.jpg") as photo:
        photo.save(tmp_path / "whole.jpg", progressive=progressive)
    whole = (tmp_path / "whole.jpg").read_bytes()
    assert read_image(tmp_path / "whole.jpg").shape == (427, 640, 3)
    (tmp_path / "cut.jpg").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SourceError, match=r"cut\.jpg"):
        read_image(tmp_path / "cut.jpg")


def test_bytes_after_a_jpeg_do_no_harm(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "trailer.jpg").write_bytes(photo_jpeg(photos) + b"camera maker's own bytes")
    np.testing.assert_array_equal(
        read_image(tmp_path / "trailer.jpg"), cv2.imread(str(photos / "rocket.jpg"))
    )


def broken_images(folder: Path, photos: Path) -> dict[str, str]:
    """Files that only look like images → what must be said of them."""
    (folder / "0empty.jpg").write_bytes(b"")
    (folder / "2text.png").write_text("this is no image")
    (folder / "4cut.jpg").write_bytes(photo_jpeg(photos)[:30_000])
    write(folder / "6float.tiff", np.ones((4, 4, 3), np.float32))
    (folder / "8gone.jpg").symlink_to(folder / "nowhere.jpg")
    return {
        "0empty.jpg": "an empty file",
        "2text.png": "16 bytes that start with b'this'",
        "4cut.jpg": "a JPEG that is cut off after 30000 bytes",
        "6float.tiff": "float32 pixels",
    }


def test_unreadable_images_are_reported_and_skipped(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = broken_images(tmp_path, photos)
    for name in ("1.png", "3.png", "9.png"):
        write(tmp_path / name, solid("red"))
    with caplog.at_level(logging.WARNING), open_camera(tmp_path) as source:
        frames = list(source)
    assert [(frame.index, frame.path and frame.path.name) for frame in frames] == [
        (0, "1.png"),
        (1, "3.png"),
        (2, "9.png"),
    ]
    assert {skip.path.name: skip.reason for skip in source.skipped} == reasons
    assert [name for name in reasons if any(name in message for message in caplog.messages)] == list(reasons)


def test_when_no_image_can_be_read_that_is_an_error(tmp_path: Path, photos: Path) -> None:
    broken_images(tmp_path, photos)
    with (
        open_camera(tmp_path) as source,
        pytest.raises(
            SourceError, match=r"none of the 4 images in .* can be read: got .*0empty.jpg: an empty file"
        ),
    ):
        next(source)


@pytest.mark.parametrize("name", ["bad.png", "bad.jpg"])
def test_one_image_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\0" * 100)
    with (
        open_camera(tmp_path / name) as source,
        pytest.raises(SourceError, match=r"cannot read the image .*: got 100 bytes that start with"),
    ):
        next(source)


def test_an_image_without_an_images_name(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "download").write_bytes(photo_jpeg(photos))
    with open_camera(tmp_path / "download") as source:
        (frame,) = source
    assert (frame.image.shape, frame.path) == ((427, 640, 3), tmp_path / "download")


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(cv2.imencode(".png", solid("red"))[1].tobytes())
    with open_camera(tmp_path) as source:
        frames = list(source)
    assert [frame.source for frame in frames] == [f"{tmp_path}/caf\ufffd.png"]
    assert frames[0].path == path


def test_opencv_keeps_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.tiff").write_bytes(cv2.imencode(".tiff", solid("red"))[1].tobytes()[:-5])
    with pytest.raises(SourceError, match=r"bad\.tiff"):
        read_image(tmp_path / "bad.tiff")
    assert capfd.readouterr().err == ""


def test_opencvs_log_level_is_put_back(tmp_path: Path) -> None:
    logger: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    original = logger.getLogLevel()
    (tmp_path / "bad.png").write_bytes(b"no")
    try:
        for level in (2, 4):
            logger.setLogLevel(level)
            with pytest.raises(SourceError):
                read_image(tmp_path / "bad.png")
            assert logger.getLogLevel() == level
    finally:
        logger.setLogLevel(original)
