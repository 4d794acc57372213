from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgecnn.backends import FunctionBackend, TensorInfo
from edgecnn.compare import Agreement, OutputAgreement, OutputSums, compare
from edgecnn.errors import DataError, InputError
from edgecnn.model import Model
from edgecnn.spec import ModelSpec, image_spec
from tests.colours import colour_cycle, solid

Outputs = Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]


def model(
    function: Outputs,
    *,
    task: str = "classification",
    batch: int | None = None,
    names: tuple[str, ...] = ("logits",),
    size: int = 3,
) -> Model:
    """A network around a function of its input tensor (N, 3, 8, 8) in [0, 1]."""
    return Model(
        FunctionBackend(
            lambda feeds: function(feeds["image"]),
            inputs=(TensorInfo("image", (batch, 3, 8, 8), "float32"),),
            outputs=tuple(TensorInfo(name, (batch, size), "float32") for name in names),
        ),
        ModelSpec(task=task, image=image_spec("unit", size_hw=(8, 8))),
    )


def means(tensor: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    return {"logits": tensor.mean((2, 3))}


def test_a_model_agrees_with_itself() -> None:
    result = compare(model(means), model(means), colour_cycle(6))
    assert result.images == 6
    assert result.outputs == {"logits": OutputAgreement(sqnr_db=None, cosine=1.0, max_abs_error=0.0)}
    assert result.metrics == {"top1_agreement": 1.0}
    assert result.worst_sqnr_db == math.inf


def test_a_planted_error() -> None:
    # ref is a unit vector each frame, the error 0.1 in each of 3 elements: SQNR = 10 log10(1 / 0.03)
    result = compare(model(means), model(lambda t: {"logits": t.mean((2, 3)) + 0.1}), colour_cycle(6))
    output = result.outputs["logits"]
    assert output.sqnr_db == pytest.approx(10 * math.log10(1 / 0.03), abs=1e-4)
    assert output.max_abs_error == pytest.approx(0.1, abs=1e-6)
    assert output.cosine == pytest.approx(1.1 / math.sqrt(1.1**2 + 2 * 0.1**2), abs=1e-6)
    assert result.worst_sqnr_db == output.sqnr_db


def test_metrics_are_means_over_frames() -> None:
    def sees_no_blue(tensor: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {"logits": tensor.mean((2, 3)) * [1, 1, -1]}

    result = compare(model(means), model(sees_no_blue), colour_cycle(6))
    assert result.metrics == {"top1_agreement": 4 / 6}


def test_sums_over_frames_are_not_means_of_frames() -> None:
    sums = OutputSums()
    sums.add(np.array([3.0, 0.0]), np.array([3.0, 0.0]))
    sums.add(np.array([0.0, 4.0]), np.array([0.0, 3.0]))
    result = sums.result()
    assert result.sqnr_db == pytest.approx(10 * math.log10(25 / 1))
    assert result.cosine == pytest.approx((9 + 12) / (5 * math.sqrt(18)))
    assert result.max_abs_error == 1.0


@pytest.mark.parametrize(
    ("reference", "other", "sqnr_db", "cosine"),
    [([0.0, 0.0], [0.0, 0.0], None, None), ([0.0, 0.0], [1.0, 0.0], -999.0, None), ([2.0], [0.0], 0.0, None)],
)
def test_zeros_have_numbers_that_json_can_hold(
    reference: list[float], other: list[float], sqnr_db: float | None, cosine: float | None
) -> None:
    sums = OutputSums()
    sums.add(np.array(reference), np.array(other))
    result = sums.result()
    assert (result.sqnr_db, result.cosine) == (sqnr_db, cosine)
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8, np.bool_])
def test_any_type_of_output(dtype: type) -> None:
    sums = OutputSums()
    sums.add(np.array([1, 0, 1], dtype), np.array([0, 0, 1], dtype))
    assert sums.result().max_abs_error == 1.0  # unsigned differences do not wrap around


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("first", [True, False])
def test_an_output_that_is_not_finite_is_refused(value: float, first: bool) -> None:
    odd = model(lambda t: {"logits": np.where(t.mean((2, 3)) > 0.9, np.float32(value), 0)})
    pair = (odd, model(means)) if first else (model(means), odd)
    with pytest.raises(DataError, match="output logits of model is infinite or NaN: got on frame 0"):
        compare(*pair, colour_cycle(3))


def test_no_frames() -> None:
    with pytest.raises(DataError, match="nothing to compare with"):
        compare(model(means), model(means), [])


def test_outputs_of_other_names_are_paired_by_position() -> None:
    other = model(lambda t: {"scores": t.mean((2, 3))}, names=("scores",))
    assert list(compare(model(means), other, colour_cycle(3)).outputs) == ["logits"]


def test_outputs_of_the_same_names_are_paired_by_name() -> None:
    def two(tensor: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {"a": tensor.mean((2, 3)), "b": tensor.max((2, 3))}

    first, second = (model(two, task="raw", names=names) for names in (("a", "b"), ("b", "a")))
    assert compare(first, second, colour_cycle(3)).worst_sqnr_db == math.inf


def test_outputs_that_do_not_correspond() -> None:
    other = model(lambda t: {"logits": t.mean((2, 3)).repeat(2, 1)}, size=6)
    with pytest.raises(InputError, match=r"got logits \(None, 6\), expected logits \(None, 3\)"):
        compare(model(means), other, colour_cycle(3))


def test_different_tasks_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="different tasks: got raw, expected classification"):
        compare(model(means), model(means, task="raw"), colour_cycle(3))


def test_each_model_uses_its_own_preprocessing() -> None:
    bgr = Model(
        model(lambda t: {"logits": t[:, ::-1].mean((2, 3))}).backend,
        ModelSpec(task="classification", image=image_spec("unit", size_hw=(8, 8), color="BGR")),
    )
    assert compare(model(means), bgr, colour_cycle(3)).worst_sqnr_db == math.inf


def test_a_fixed_batch_counts_the_frame_alone() -> None:
    result = compare(model(means), model(means, batch=4), colour_cycle(3))
    assert (result.images, result.worst_sqnr_db) == (3, math.inf)


def test_frames_stream_and_progress_is_told() -> None:
    seen: list[tuple[str, int, int | None]] = []

    def frames() -> Any:
        for number in range(3):
            assert len(seen) == number  # the one before is done with
            yield solid("red")

    compare(model(means), model(means), frames(), total=3, progress=lambda *step: seen.append(step))
    assert seen == [("comparing", 1, 3), ("comparing", 2, 3), ("comparing", 3, 3)]


def test_as_a_json_object() -> None:
    result = Agreement(
        images=2,
        outputs={"y": OutputAgreement(sqnr_db=20.0, cosine=0.5, max_abs_error=0.1)},
        metrics={"top1_agreement": 0.5},
    )
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == {
        "images": 2,
        "outputs": {"y": {"sqnr_db": 20.0, "cosine": 0.5, "max_abs_error": 0.1}},
        "top1_agreement": 0.5,
    }
