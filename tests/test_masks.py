from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgecnn.errors import InputError
from edgecnn.masks import Crop, Masks, decode_runs, encode_runs

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=30))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
@settings(deadline=None)
@given(MASKS)
def test_run_lengths_are_those_of_pycocotools(mask: Any) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    (runs,) = Masks.from_dense(mask[None]).to_coco()
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert runs == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(coco.decode(runs), mask)
    np.testing.assert_array_equal(decode_runs(runs), mask)
    np.testing.assert_array_equal(decode_runs(theirs), mask)
    assert json.loads(json.dumps(runs)) == runs


@settings(deadline=None)
@given(MASKS, st.integers(0, 20), st.integers(0, 20), st.integers(0, 9), st.integers(0, 9))
def test_a_crop_is_a_mask_of_the_whole_frame(mask: Any, x: int, y: int, right: int, below: int) -> None:
    frame_hw = (y + mask.shape[0] + below, x + mask.shape[1] + right)
    dense = np.zeros(frame_hw, bool)
    dense[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    np.testing.assert_array_equal(decode_runs(encode_runs(Crop(x, y, mask), frame_hw)), dense)
    np.testing.assert_array_equal(Masks(frame_hw, [lambda: Crop(x, y, mask)]).dense()[0], dense)
    again = Masks.from_dense(dense[None])
    np.testing.assert_array_equal(again.dense()[0], dense)
    assert again.areas_px().tolist() == [int(dense.sum())]


def test_known_run_lengths() -> None:
    """Two columns of three: 0 1 1 | 1 0 0 is one pixel without, three with, two without."""
    mask = np.array([[0, 1], [1, 0], [1, 0]], bool)
    assert encode_runs(Crop(0, 0, mask), (3, 2)) == {"size": [3, 2], "counts": "132"}
    np.testing.assert_array_equal(decode_runs({"size": [3, 2], "counts": [1, 3, 2]}), mask)


def test_masks_are_made_when_they_are_looked_at() -> None:
    made = []

    def crop(number: int) -> Any:
        def make() -> Crop:
            made.append(number)
            return Crop(number, 0, np.ones((2, 2), bool))

        return make

    masks = Masks((4, 9), [crop(0), crop(1), crop(2)])
    chosen = masks[np.array([False, True, True])]
    assert (len(masks), len(chosen), made) == (3, 2, [])
    assert [part.x_px for part in chosen] == [1, 2]
    assert made == [1, 2]
    masks.dense()
    assert made == [1, 2, 0]
    assert len(masks[1]) == 1
    assert len(masks[:0]) == 0
    moved = chosen.moved(3, 1, (9, 12)).dense()
    assert moved.shape == (2, 9, 12)
    assert moved[0, 1:3, 4:6].all()
    assert moved[0].sum() == 4


def test_overlap_of_two_masks() -> None:
    dense = np.zeros((3, 6, 6), bool)
    dense[0, :3, :4] = dense[1, 1:5, 2:5] = True
    masks = Masks.from_dense(dense)
    assert masks.iou(0, masks, 1) == 4 / (12 + 12 - 4)
    assert masks.iou(0, masks, 0) == 1
    assert masks.iou(0, masks, 2) == 0
    assert masks.iou(2, masks, 2) == 1


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "no run lengths of COCO"),
        ({"size": [3, 2], "counts": [7]}, "do not fill their mask: got 7, expected 3 x 2"),
        ({"size": [3, 2], "counts": [-1, 7]}, "do not fill"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "do not fill"),
        ({"size": [3, 2], "counts": "1\x00"}, "no run lengths"),
        ({"size": [3, 2], "counts": "1é"}, "no run lengths"),
        ({"size": [3, 2], "counts": "T"}, "no run lengths.*cut off"),
        ({"size": [3, 2], "counts": "o" * 50}, "no run lengths"),
        ({"size": [3], "counts": "132"}, "no run lengths"),
        ({"size": "32", "counts": [1, 3, 2, None]}, "no run lengths"),
    ],
)
def test_data_that_are_no_run_lengths(runs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_runs(runs)


def test_wrong_masks() -> None:
    with pytest.raises(InputError, match=r"wrong masks: got \(4, 4\), expected \(N, H, W\)"):
        Masks.from_dense(np.zeros((4, 4)))
    runs = Masks.from_dense(np.zeros((1, 4, 4), bool)).to_coco()
    with pytest.raises(InputError, match="wrong size of a mask"):
        Masks.from_coco(runs, (4, 5))
    assert len(Masks.from_coco([], (4, 5))) == 0
