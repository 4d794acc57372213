"""A slide: an image far larger than the network's view, in tiles that overlap, put together without seams.

Says how much of the slide each class covers and how many separate regions it has, and writes an overlay. For
research and teaching: nothing here is a medical device.

python samples/medical_slide.py segmenter.onnx slide.png --save overlay.png
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np

import edgecnn
from edgecnn.camera import read_image
from edgecnn.tiling import TiledModel, tile_places


def main() -> None:
    """Segment one image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a segmenter that edgecnn built")
    parser.add_argument("slide", type=Path, help="an image")
    parser.add_argument("--save", type=Path, help="write the overlay here")
    parser.add_argument("--overlap", type=float, default=0.25, help="of tiles, as a part of their size")
    parser.add_argument("--min-px", type=int, default=30, help="smaller regions are not counted")
    arguments = parser.parse_args()

    slide = read_image(arguments.slide)
    height, width = slide.shape[:2]
    with TiledModel(edgecnn.load(arguments.model), overlap=arguments.overlap) as tiled:
        tiles = tile_places((height, width), tiled.tile_hw, tiled.overlap)
        start = perf_counter()
        result = tiled(slide)
        seconds = perf_counter() - start
        assert isinstance(result, edgecnn.Segmentation)
        print(f"{width} × {height}, {len(tiles)} tiles, {seconds:.2f} s")
        for class_id in result.class_ids:
            mask = result.mask(class_id)
            count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
            regions = int((stats[1:, cv2.CC_STAT_AREA] >= arguments.min_px).sum()) if count > 1 else 0
            print(f"{result.label(class_id)}: {mask.mean():.1%} of the slide, {regions} regions")
        if arguments.save:
            overlay = slide.copy()
            tiled.task.draw(overlay, result)
            if not cv2.imwrite(str(arguments.save), overlay):
                raise SystemExit(f"cannot write {arguments.save}")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
