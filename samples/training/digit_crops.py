"""Handwritten digits (scikit-learn's) of any colour on crops of photos, to classify.

Neither the photos of the test nor the forms, on which people wrote the digits, are trained with.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from edgecnn.demo import packaged

__all__ = ["SIDE", "DigitCrops"]

SIDE = 32
_FIRST_TEST_DIGIT = 1287  # where the eleventh of 14 forms begins
_PHOTOS = {
    True: ("skimage/data/astronaut.png", "skimage/data/motorcycle_left.png", "skimage/data/brick.png"),
    False: ("skimage/data/chelsea.png", "skimage/data/coffee.png", "sklearn/datasets/images/china.jpg"),
}


class DigitCrops:
    """Frames by their seed.

    Args:
        training: which forms and photos.
    """

    def __init__(self, training: bool) -> None:
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        forms = slice(0, _FIRST_TEST_DIGIT) if training else slice(_FIRST_TEST_DIGIT, None)
        self._glyphs, self._classes = digits.images[forms] / 16, digits.target[forms]
        self._photos = [cv2.imread(str(packaged(name))) for name in _PHOTOS[training]]

    def __call__(self, *seed: int, count: int = 64) -> tuple[NDArray[np.uint8], torch.Tensor]:
        """(N, 32, 32, 3) uint8 and (N,) int64; the same seed gives the same."""
        random, frames, classes = np.random.default_rng(seed), [], []
        for _ in range(count):
            photo: Any = self._photos[random.integers(len(self._photos))]
            which = random.integers(len(self._glyphs))
            y, x = (int(random.integers(side - SIDE)) for side in photo.shape[:2])
            place: Any = cv2.getRotationMatrix2D(
                (3.5, 3.5), random.uniform(-20, 20), random.uniform(2.2, 3.6)
            )
            place[:, 2] += 12 + random.uniform(-4, 4, 2)
            ink = cv2.warpAffine(self._glyphs[which], place, (SIDE, SIDE)).clip(0, 1)[..., None]
            alpha, crop = ink * random.uniform(0.6, 1), photo[y : y + SIDE, x : x + SIDE]
            frames.append(crop * (1 - alpha) + alpha * random.integers(0, 256, 3))
            classes.append(self._classes[which])
        return np.stack(frames).astype(np.uint8), torch.tensor(np.array(classes))
