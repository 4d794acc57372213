from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecnn.backends import TensorInfo
from edgecnn.errors import InferenceError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import RawOutputs
from edgecnn.spec import ImageSpec, ModelSpec
from edgecnn.tasks import Task, create_task

GEOMETRY = Geometry(frame_hw=(8, 8), scale_xy=(1, 1), offset_xy=(0, 0))


def task(*shapes: tuple[int | None, ...], **head: Any) -> Task:
    spec = ModelSpec(task="raw", image=ImageSpec(size_hw=(8, 8)), head=head)
    return create_task(
        spec, [TensorInfo(f"out{index}", shape, "float32") for index, shape in enumerate(shapes)]
    )


def test_each_frame_gets_its_rows() -> None:
    boxes, counts = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.array([1, 2])
    results = task((None, 3, 4), (None,)).decode({"out0": boxes, "out1": counts}, [GEOMETRY] * 2)
    for index, result in enumerate(results):
        assert isinstance(result, RawOutputs)
        np.testing.assert_array_equal(result.tensors["out0"], boxes[index])
        assert isinstance(result.tensors["out1"], np.ndarray)  # (): not a NumPy scalar
        assert result.tensors["out1"].shape == ()
        assert result.to_dict()["outputs"]["out1"] == {"shape": [], "dtype": "int64", "values": index + 1}


def test_rows_that_nobody_asked_for_are_left_out() -> None:
    results = task((4, 2)).decode({"out0": np.zeros((4, 2))}, [GEOMETRY] * 3)
    assert len(results) == 3


@pytest.mark.parametrize("shape", [(5, 7), (0, 7), ()])
def test_a_list_for_all_frames_is_not_split(shape: tuple[int, ...]) -> None:
    """As NonMaxSuppression gives: its first row would pass as the first frame's."""
    with pytest.raises(InferenceError, match=r"output out0 has no batch axis: .*Use Model\.infer"):
        task((None, 7)).decode({"out0": np.zeros(shape)}, [GEOMETRY])


@pytest.mark.parametrize(
    ("shapes", "name"), [([()], "out0"), ([(1, 100, 4), (100, 7)], "out1"), ([(1, 2), ()], "out1")]
)
def test_what_cannot_have_a_batch_axis_is_refused_when_the_model_is_loaded(
    shapes: list[tuple[int, ...]], name: str
) -> None:
    with pytest.raises(SpecError, match=f"output {name} has no batch axis"):
        task(*shapes)


def test_there_is_nothing_to_say_in_the_head() -> None:
    with pytest.raises(SpecError, match="unknown option of the raw head: got scores, expected none"):
        task((1, 2), scores="logits")


def test_nothing_is_drawn_and_nothing_measured() -> None:
    frame = np.full((9, 9, 3), 7, np.uint8)
    decoder = task((1, 2))
    (result,) = decoder.decode({"out0": np.zeros((1, 2))}, [GEOMETRY])
    decoder.draw(frame, result)
    assert (frame == 7).all()
    assert decoder.agreement(result, result) == {}
