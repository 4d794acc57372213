"""Labels that are folders' and files' names: a folder a class, or a file of the same name beside an image."""

from __future__ import annotations

from pathlib import Path

from edgecnn.camera.images import natural_key
from edgecnn.errors import DataError
from edgecnn.evaluation.reading import images_in

__all__ = ["class_folders", "label_beside"]


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Name of each folder in it → its images, in natural order. Raises DataError where there are none."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}", expected="a folder with a folder of images for each class")
    names = sorted((path.name for path in folder.iterdir() if path.is_dir()), key=natural_key)
    found = {name: images_in(folder / name) for name in names if not name.startswith(".")}
    if not found:
        raise DataError(
            f"no folders in {folder}", expected="one for each class, called after it, with images in it"
        )
    return found


def label_beside(image: Path, folder: Path, suffixes: tuple[str, ...]) -> Path:
    """The label of an image: in `folder`, of the same name but for one of the suffixes.

    Raises:
        DataError: there is none, or it is a link that leads elsewhere.
    """
    for suffix in suffixes:
        path = folder / f"{image.stem}{suffix}"
        if path.is_file() and path != image:
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{path} is a link that leads out of its folder", expected="a file")
            return path
    wanted = " or ".join(f"{image.stem}{suffix}" for suffix in suffixes)
    raise DataError(f"no label for {image}", expected=f"{wanted} in {folder}")
