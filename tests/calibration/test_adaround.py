from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edgecnn.calibration.adaround import adaptive_rounding
from edgecnn.calibration.rounding import round_weights, shrink
from edgecnn.calibration.second_order import round_network
from edgecnn.errors import BackendUnavailableError
from tests.calibration.test_rounding import moments, problem
from tests.calibration.test_second_order import network, noise, plain_table, tensors


@pytest.mark.parametrize(("groups", "length", "outputs"), [(1, 100, 8), (6, 9, 1), (3, 25, 4)])
def test_about_as_good_as_second_order_and_much_better_than_nearest(
    groups: int, length: int, outputs: int
) -> None:
    weights, scales, read, target = problem(groups, length, outputs)
    hessian = shrink(*moments(read, target), 0.02).hessian
    steps = adaptive_rounding(weights, scales, hessian)
    assert np.array_equal(steps, np.rint(steps))
    assert np.abs(steps).max() <= 127
    assert np.abs(steps - weights / scales[:, None, :]).max() < 1  # up or down, nothing else

    def cost(found: np.ndarray) -> float:
        difference = found * scales[:, None, :] - weights
        return float(np.vdot(difference, hessian @ difference))

    assert cost(steps) < 0.6 * cost(np.rint(weights / scales[:, None, :]))
    assert cost(steps) < 1.2 * cost(round_weights(weights, scales, hessian))
    np.testing.assert_array_equal(steps, adaptive_rounding(weights, scales, hessian))


def test_a_network_gets_it_where_other_frames_confirm_it(tmp_path: Path) -> None:
    graph = network(tmp_path)
    table = plain_table(graph)
    plain, before = round_network(graph, table, tensors())
    rounded, layers = round_network(graph, table, tensors(), adaptive=True)
    assert rounded.rounding == "adaround"
    assert any(layer.adaptive for layer in layers)
    # the first layer reads the same in both: from there on, each is held to what came before it
    assert layers[0].chosen_db >= before[0].chosen_db
    assert noise(graph, rounded) < noise(graph, table)
    assert noise(graph, rounded) < 1.3 * noise(graph, plain)


def test_without_torch_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(tmp_path)
    table = plain_table(graph)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendUnavailableError, match=r"edgecnn\[export\]"):
        round_network(graph, table, tensors(), adaptive=True)
