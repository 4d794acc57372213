from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from edgecnn.backends import TensorInfo
from edgecnn.errors import InferenceError, SpecError
from edgecnn.geometry import Geometry
from edgecnn.results import Classification
from edgecnn.spec import ImageSpec, ModelSpec
from edgecnn.tasks import Task, create_task

GEOMETRY = Geometry(frame_hw=(8, 8), scale_xy=(1, 1), offset_xy=(0, 0))
Sides = tuple[int | None, ...]


def task(*shapes: Sides, labels: Sequence[str] = (), **head: Any) -> Task:
    spec = ModelSpec(task="classification", image=ImageSpec(size_hw=(8, 8)), labels=tuple(labels), head=head)
    return create_task(
        spec, [TensorInfo(f"out{index}", shape, "float32") for index, shape in enumerate(shapes)]
    )


def scores_of(decoder: Task, outputs: Any, frames: int | None = None) -> Any:
    """(frames, C) float32, checked to be plain classifications."""
    outputs = np.asarray(outputs)
    results = decoder.decode({"out0": outputs}, [GEOMETRY] * (len(outputs) if frames is None else frames))
    assert all(isinstance(result, Classification) for result in results)
    scores = np.stack([result.scores for result in results if isinstance(result, Classification)])
    assert scores.dtype == np.float32
    return scores


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def softmax(logits: Any) -> Any:
    """exp(x) / sum(exp(x)) in float64, shifted so that it does not overflow."""
    shifted = np.exp(np.float64(logits) - np.max(logits, axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


LOGITS = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.floats(-1e4, 1e4, width=32)
)


@given(LOGITS)
def test_logits_become_the_softmax(logits: Any) -> None:
    scores = scores_of(task((None, None)), logits)
    np.testing.assert_allclose(scores, softmax(logits), rtol=1e-5, atol=1e-37)  # float32, and its smallest
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


@given(LOGITS)
def test_logits_of_many_labels_become_the_logistic_function(logits: Any) -> None:
    scores = scores_of(task((None, None), multi_label=True), logits)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-np.float64(logits)))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-37)


def test_extreme_logits_are_certain() -> None:
    assert scores_of(task((None, 3)), f32([[1e4, -1e4, 0]])).tolist() == [[1, 0, 0]]
    assert scores_of(task((None, 3)), f32([[-1e4, -1e4, -1e4 - 1e3]])).tolist() == [[0.5, 0.5, 0]]
    sigmoid = scores_of(task((None, 3), multi_label=True), f32([[1e4, -1e4, 0]]))
    assert sigmoid.tolist() == [[1, 0, 0.5]]


def test_a_masked_class_is_impossible() -> None:
    masked = f32([[0, -np.inf, 0]])
    assert scores_of(task((None, 3)), masked).tolist() == [[0.5, 0, 0.5]]
    assert scores_of(task((None, 3), multi_label=True), masked).tolist() == [[0.5, 0, 0.5]]


@pytest.mark.parametrize("wrong", [[np.nan, 0, 0], [np.inf, 0, 0], [np.inf, np.inf, 0], [-np.inf] * 3])
def test_what_is_no_number_is_no_result(wrong: list[float]) -> None:
    fine = [1.0, 2.0, 3.0]
    with pytest.raises(InferenceError, match="output out0 is infinite or NaN: expected finite class scores"):
        scores_of(task((None, 3)), f32([fine, wrong]))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_nor_is_it_as_a_probability(wrong: float) -> None:
    with pytest.raises(InferenceError, match="output out0 is infinite or NaN"):
        scores_of(task((None, 2), scores="probabilities"), f32([[wrong, 0.5]]))


def test_numpys_warnings_are_the_callers_own() -> None:
    """Even where the caller has made all of them errors."""
    with np.errstate(all="raise"):
        scores_of(task((None, 2)), f32([[1e4, -1e4]]))
        scores_of(task((None, 2), multi_label=True), f32([[1e4, -1e4]]))
        with pytest.raises(InferenceError):
            scores_of(task((None, 2)), np.array([[1e300, 0]]))


def test_probabilities_stay_as_they_are() -> None:
    given_scores = f32([[0.125, 0.5, 0.375]])
    assert scores_of(task((None, 3), scores="probabilities"), given_scores).tolist() == given_scores.tolist()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1), (2, 1, 1, 3), (2, 3, 1)])
def test_axes_of_length_one_do_not_matter(shape: tuple[int, ...]) -> None:
    logits = f32([[1, 2, 3], [3, 2, 1]])
    scores = scores_of(task((None, *shape[1:])), logits.reshape(shape))
    np.testing.assert_array_equal(scores, scores_of(task((None, 3)), logits))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8])
def test_other_types_of_numbers(dtype: type) -> None:
    np.testing.assert_allclose(
        scores_of(task((None, 3)), np.array([[1, 2, 3]], dtype)), softmax([[1, 2, 3]]), rtol=1e-6
    )


def test_rows_that_nobody_asked_for_are_left_out() -> None:
    """A network of a fixed batch of four, run for two frames; what the others hold does not matter."""
    logits = f32([[1, 0], [0, 1], [np.nan, 0], [np.nan, 0]])
    scores = scores_of(task((4, 2)), logits, frames=2)
    assert np.argmax(scores, axis=1).tolist() == [0, 1]


def test_the_output_can_be_named() -> None:
    decoder = task((None, 7), (None, 3), output="out1", labels="abc")
    outputs = {"out0": np.zeros((1, 7), np.float32), "out1": f32([[0, 9, 0]])}
    (result,) = decoder.decode(outputs, [GEOMETRY])
    assert isinstance(result, Classification)
    assert result.best.label == "b"


def test_a_result_is_plain_json() -> None:
    (result,) = task((None, 3), labels="abc").decode({"out0": f32([[0, 9, 0]])}, [GEOMETRY])
    assert json.loads(json.dumps(result.to_dict()))["classes"][0]["label"] == "b"


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (
            [(None, 3), (None, 3)],
            {},
            "which output holds the class scores.: got out0, out1. Name it: --head output=",
        ),
        ([], {}, "which output holds the class scores"),
        ([(None, 3)], {"output": "probs"}, "no such output: got probs, expected one of out0"),
        ([(None, 3)], {"labels": "ab"}, "labels do not fit the model: got 2 labels, expected 3, one a class"),
        ([(None, 3, 1, 1)], {"labels": "abcd"}, "labels do not fit the model: got 4 labels, expected 3"),
        (
            [(None, 21, 33, 33)],
            {},
            r"out0 does not hold class scores: got \(None, 21, 33, 33\), expected one number",
        ),
        ([(None, 84, 8400)], {"labels": "ab"}, "does not hold class scores"),
        ([(3,)], {}, r"does not hold class scores: got \(3,\)"),
        ([()], {}, "does not hold class scores"),
        ([(None, 1)], {}, "has one class only, whose share is always 100%"),
        ([(None, 1, 1, 1)], {}, "has one class only"),
        (
            [(None, 3)],
            {"score": "logits"},
            "unknown option of the classification head: got score, expected one of scores, m",
        ),
        (
            [(None, 3)],
            {"scores": "softmax"},
            "the classification head is wrong: got Invalid enum value 'softmax'",
        ),
        (
            [(None, 3)],
            {"multi_label": "yes"},
            "the classification head is wrong: got Expected `bool`, got `str`",
        ),
        ([(None, 3)], {"multi_label": 1}, "the classification head is wrong"),
        ([(None, 3)], {"output": 0}, "the classification head is wrong"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_model_is_loaded(
    shapes: list[Sides], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        task(*shapes, **options)


def test_one_class_is_fine_for_yes_or_no() -> None:
    assert scores_of(task((None, 1), multi_label=True), f32([[0]])).tolist() == [[0.5]]
    assert scores_of(task((None, 1), scores="probabilities"), f32([[0.25]])).tolist() == [[0.25]]


def test_labels_are_counted_at_the_first_frame_where_the_graph_does_not_say() -> None:
    decoder = task((None, None), labels="ab")
    assert scores_of(decoder, f32([[0, 0]])).shape == (1, 2)
    with pytest.raises(SpecError, match="labels do not fit the model: got 2 labels, expected 3, one a class"):
        scores_of(decoder, f32([[0, 0, 0]]))


def test_agreement_is_about_the_best_class() -> None:
    decoder = task((None, 3))
    first, same, other = (Classification(f32(s)) for s in ([0.1, 0.9, 0], [0.4, 0.5, 0.1], [0.9, 0.1, 0]))
    assert decoder.agreement(first, same) == {"top1_agreement": 1.0}
    assert decoder.agreement(first, other) == {"top1_agreement": 0.0}


def test_drawing_writes_into_the_upper_left_corner() -> None:
    frame = np.full((120, 160, 3), 255, np.uint8)
    (result,) = task((None, 3), labels=("%s", "{0}", "犬")).decode({"out0": f32([[0, 9, 0]])}, [GEOMETRY])
    task((None, 3)).draw(frame, result)
    assert (frame[:20, :20] < 255).any()
    assert (frame[-20:, -20:] == 255).all()
