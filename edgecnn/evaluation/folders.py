"""Labels that are folders' and files' names: a folder a class, or a file of the same name beside an image."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgecnn.camera.images import is_image_name, natural_key
from edgecnn.errors import DataError, UnlabelledError
from edgecnn.evaluation.labelled import Place
from edgecnn.evaluation.reading import excerpt, images_in, inside, read_bytes

__all__ = ["class_folders", "label_beside", "label_pairs", "named_images", "own_file"]

LARGEST_BYTES = 1 << 27


def named_images(place: Place) -> list[tuple[Path, str]]:
    """Images with one word for each.

    Either `place.data` is a folder with a folder for each word, or a JSON object from names of image files to
    words. Raises DataError.
    """
    if not place.data.is_file():
        folders = class_folders(place.data)
        return [(path, name) for name, paths in folders.items() for path in paths]
    try:
        words = msgspec.json.decode(read_bytes(place.data, most=LARGEST_BYTES), type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DataError(
            f"{place.data} holds no labels",
            got=excerpt(str(error)),
            expected='{"image.png": "class", …}',
        ) from error
    folder = place.images or place.data.parent
    found = [(inside(folder, name, where=str(place.data)), word) for name, word in words.items()]
    missing = next((path for path, _ in found if not path.is_file()), None)
    if missing is not None:
        raise DataError(f"{place.data}: an image is not there", got=excerpt(str(missing)))
    return found


def class_folders(folder: Path, *, leave_out: str = "") -> dict[str, list[Path]]:
    """Name of each folder in it → its images, in natural order; one folder is left out.

    Raises:
        DataError: no folders, or one without images.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}", expected="a folder with a folder of images for each class")
    loose = next((path for path in folder.iterdir() if is_image_name(path) and path.is_file()), None)
    if loose is not None:
        raise UnlabelledError(
            f"images are in {folder} itself", got=excerpt(loose.name), expected="a folder for each class"
        )
    names = sorted((path.name for path in folder.iterdir() if path.is_dir()), key=natural_key)
    found = {
        name: images_in(folder / name) for name in names if name != leave_out and not name.startswith(".")
    }
    if not found:
        raise UnlabelledError(
            f"no folders in {folder}", expected="one for each class, called after it, with images in it"
        )
    return found


def label_pairs(place: Place, folder_name: str, suffixes: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """Images, each with the file that labels it; an image without one is none of the set.

    With `place.images`, labels are in `place.data`; else images are in `images/` and labels in
    `folder_name/`; else labels are beside the images. A label has the image's name and one of the suffixes.

    Raises:
        DataError: no image has a label.
    """
    if place.images is not None:
        images, folder = images_in(place.images), place.data
    elif (place.data / "images").is_dir() and (place.data / folder_name).is_dir():
        images, folder = images_in(place.data / "images"), place.data / folder_name
    else:
        images, folder = images_in(place.data), place.data
    beside = folder == images[0].parent
    if beside:  # there a label has a name of its own, and is no image
        images = [path for path in images if not any(path.name.endswith(suffix) for suffix in suffixes[1:])]
    used = suffixes[1:] if beside else suffixes
    pairs = [(image, label) for image in images if (label := label_beside(image, folder, used)) is not None]
    if not pairs:
        stem = images[0].stem if images else "NAME"  # none is left where all have a label's name
        wanted = " or ".join(f"{stem}{suffix}" for suffix in used)
        raise UnlabelledError(f"no labels for the images of {place.data}", expected=f"{wanted} in {folder}")
    return pairs


def label_beside(image: Path, folder: Path, suffixes: tuple[str, ...]) -> Path | None:
    """The label of an image: in `folder`, of the same name but for the suffix; None where there is none."""
    paths = [folder / f"{image.stem}{suffix}" for suffix in suffixes]
    return next((own_file(path) for path in paths if path != image and path.is_file()), None)


def own_file(path: Path) -> Path:
    """The path; DataError where it is a link that leads out of its folder."""
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        raise DataError(f"{path} is a link that leads out of its folder", expected="a file")
    return path
