from __future__ import annotations

import json
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.errors import ModelFormatError
from edgecnn.metadata import QUANTIZATION_KEY
from edgecnn.quantization import LEVELS, ActivationRange, QuantizationTable, WeightScales

_positive = st.floats(min_value=1e-30, max_value=1e30)


def table(**changes: Any) -> QuantizationTable:
    values: dict[str, Any] = {
        "activations": {"image": ActivationRange(amax=4.0, low=-4.0, high=2.5, method="minmax")},
        "weights": {"w": WeightScales(axis=0, scales=(0.5, 0.25))},
        "method": "minmax",
        "frames": 3,
        "frames_sha256": "ab",
        "tool": "edgecnn 0.1.0",
    }
    return QuantizationTable(**{**values, **changes})


def test_scale_is_amax_over_127() -> None:
    assert LEVELS == 127
    assert table().activations["image"].scale == 4.0 / 127


@given(
    st.dictionaries(
        st.text(max_size=8), st.tuples(_positive, st.floats(-1e9, 0), st.floats(0, 1e9)), max_size=5
    ),
    st.dictionaries(st.text(max_size=8), st.lists(_positive, min_size=1, max_size=4), max_size=5),
)
def test_json_keeps_every_bit(
    activations: dict[str, tuple[float, float, float]], weights: dict[str, list[float]]
) -> None:
    before = table(
        activations={
            name: ActivationRange(amax=amax, low=low, high=high, method="minmax")
            for name, (amax, low, high) in activations.items()
        },
        weights={name: WeightScales(axis=1, scales=tuple(scales)) for name, scales in weights.items()},
    )
    assert QuantizationTable.from_json(before.to_json()) == before


def test_the_same_table_gives_the_same_text_whatever_its_order() -> None:
    entry = ActivationRange(amax=1.0, low=0.0, high=1.0, method="minmax")
    assert (
        table(activations={"a": entry, "b": entry}).to_json()
        == table(activations={"b": entry, "a": entry}).to_json()
    )


def test_from_metadata() -> None:
    assert QuantizationTable.from_metadata({}) is None
    assert QuantizationTable.from_metadata({QUANTIZATION_KEY: table().to_json()}) == table()


def damaged(**changes: Any) -> str:
    values = json.loads(table().to_json())
    values.update(changes)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"version": 1}', "missing required field"),
        (damaged(frames="many"), "frames"),
        (damaged(version=4), "another version: got 4.*edgecnn 0.1.0"),
        (damaged(weights={"w": {"axis": 0, "scales": [0.0]}}), "scales are wrong"),
        (damaged(weights={"w": {"axis": 0, "scales": [1e-39]}}), "scales are wrong"),
        (damaged(weights={"w": {"axis": -1, "scales": [1.0]}}), "scales are wrong"),
        (damaged(weights={"w": {"axis": 2, "scales": [1.0]}}), "scales are wrong"),
        (damaged(activations={"a": {"amax": 0, "low": 0, "high": 0, "method": "minmax"}}), "range is wrong"),
        (damaged(activations={"a": {"amax": -1, "low": 0, "high": 0, "method": "minmax"}}), "range is wrong"),
    ],
)
def test_damaged_tables_are_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message) as caught:
        QuantizationTable.from_json(text)
    assert "Calibrate the model again" in str(caught.value)


def test_steps_know_the_weights_that_they_are_for() -> None:
    weights = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 12)
    steps = np.full((2, 12), 3, np.int8)
    entry = WeightScales.with_steps(0, (0.5, 0.25), weights, steps)
    np.testing.assert_array_equal(entry.on_grid(weights), steps * np.array([[0.5], [0.25]]))
    assert entry.fits(weights)
    assert not entry.fits(weights[:, ::-1])
    assert not entry.fits(weights.reshape(4, 6))
    assert WeightScales(axis=0, scales=(0.5, 0.25)).fits(weights)  # a table of before


def test_steps_are_not_inflated_beyond_the_weights() -> None:
    """A file of a megabyte could otherwise ask for a gigabyte."""
    bomb = WeightScales(axis=0, scales=(1.0, 1.0), moves=zlib.compress(bytes(1 << 26), 9))
    tracemalloc.start()
    with pytest.raises(ModelFormatError, match="steps of a weight cannot be read"):
        bomb.on_grid(np.ones((2, 3), np.float32))
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()
