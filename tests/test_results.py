from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgecnn.errors import InputError
from edgecnn.results import Classification, ClassScore, RawOutputs, Result

SCORES = np.array([0.25, 0.5, 0.0, 0.25], np.float32)  # exact in binary


def test_top_is_best_first_and_ties_are_in_order_of_class_id() -> None:
    result = Classification(SCORES, ("a", "b", "c", "d"))
    assert result.top(3) == [ClassScore(1, "b", 0.5), ClassScore(0, "a", 0.25), ClassScore(3, "d", 0.25)]
    assert result.best == ClassScore(1, "b", 0.5)


@pytest.mark.parametrize(("k", "count"), [(0, 0), (1, 1), (4, 4), (5, 4), (10**9, 4)])
def test_top_gives_as_many_as_there_are(k: int, count: int) -> None:
    assert len(Classification(SCORES).top(k)) == count


def test_top_refuses_a_negative_number() -> None:
    with pytest.raises(InputError, match="k is wrong: got -1, expected 0 or more"):
        Classification(SCORES).top(-1)


def test_a_class_without_a_label_is_called_by_its_number() -> None:
    assert [entry.label for entry in Classification(SCORES).top(2)] == ["1", "0"]
    assert [entry.label for entry in Classification(SCORES, ("a",)).top(2)] == ["1", "a"]


def test_all_equal_scores_keep_the_order_of_the_classes() -> None:
    result = Classification(np.full(1000, 0.001, np.float32))
    assert [entry.id for entry in result.top(5)] == [0, 1, 2, 3, 4]
    assert result.best.id == 0


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(0, 1, width=32)), st.integers(0, 60))
def test_top_is_the_sorted_scores(scores: Any, k: int) -> None:
    result = Classification(scores)
    top = result.top(k)
    assert [entry.score for entry in top] == sorted(scores.tolist(), reverse=True)[:k]
    assert all(scores[entry.id] == entry.score for entry in top)
    if top:
        assert top[0] == result.best


def test_a_classification_as_json() -> None:
    result = Classification(SCORES, ("a", "b", 'quo"te\n', "d"))
    expected = {
        "classes": [
            {"id": 1, "label": "b", "score": 0.5},
            {"id": 0, "label": "a", "score": 0.25},
            {"id": 3, "label": "d", "score": 0.25},
            {"id": 2, "label": 'quo"te\n', "score": 0.0},
        ]
    }
    assert result.to_dict() == expected
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == expected
    assert len(Classification(np.zeros(1000, np.float32)).to_dict()["classes"]) == 5


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (np.array([[1.5, -2.0]], np.float32), [[1.5, -2.0]]),
        (np.array([0.5, 1.0], np.float16), [0.5, 1.0]),
        (np.array([1, 2], np.int64), [1, 2]),
        (np.array([255], np.uint8), [255]),
        (np.array([True, False]), [True, False]),
        (np.array(7, np.int32), 7),
        (np.zeros((0, 4), np.float32), []),
        (np.array([[1.0, np.nan], [np.inf, -np.inf]], np.float32), [[1.0, None], [None, None]]),
        (np.array(np.nan, np.float64), None),
    ],
)
def test_raw_outputs_as_json(array: Any, values: Any) -> None:
    before = array.copy()
    report = RawOutputs({"out": array}).to_dict()
    assert report == {
        "outputs": {"out": {"shape": list(array.shape), "dtype": str(array.dtype), "values": values}}
    }
    assert json.loads(json.dumps(report, allow_nan=False)) == report  # no NumPy types, no NaN
    np.testing.assert_array_equal(array, before)


def test_both_are_results() -> None:
    assert isinstance(Classification(SCORES), Result)
    assert isinstance(RawOutputs({}), Result)
    assert not isinstance(SCORES, Result)
