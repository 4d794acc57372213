from __future__ import annotations

import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecnn.errors import ModelFormatError, ModelNotFoundError, OutputExistsError
from edgecnn.export.graph import OPSETS, constant, load_graph, save_graph, to_bytes
from edgecnn.interrupts import interrupts_deferred
from edgecnn.metadata import EXPORT_KEY
from tests.broken import BROKEN, convnet
from tests.networks import Net, inputs, run, save, sqnr_db


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_gives_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    BROKEN[kind](path)
    with pytest.raises(ModelFormatError) as caught:
        load_graph(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert caught.value.got


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    said = {}
    for kind, write in BROKEN.items():
        folder = tmp_path / kind
        folder.mkdir()
        write(folder / "model.onnx")
        with pytest.raises(ModelFormatError) as caught:
            load_graph(folder / "model.onnx")
        said[kind] = str(caught.value)
    assert "0 bytes" in said["empty"]
    assert "is not a whole ONNX file" in said["truncated"]
    assert "b'<!DOCTYP'" in said["html"]
    assert "got 99, expected 7 to 23" in said["opset_99"]
    assert "ir_version 99" in said["ir_version_99"]
    assert "Frobnicate" in said["unknown_operator"]
    assert "Copy weights.bin to the same folder" in said["missing_external_data"]
    assert (
        "files that hold its weights" in said["short_external_data"]
        or "weights.bin" in said["short_external_data"]
    )


def test_ctrl_c_waits_for_the_end_of_a_block() -> None:
    steps = []

    def work() -> None:
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("finished")
        steps.append("went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with interrupts_deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_no_file(what: str, tmp_path: Path) -> None:
    path = tmp_path if what == "folder" else tmp_path / "no.onnx"
    with pytest.raises(ModelNotFoundError, match="is a folder" if what == "folder" else "does not exist"):
        load_graph(path)


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
@pytest.mark.parametrize("inputs_hold_weights", [False, True])
def test_old_opsets_are_converted(opset: int, inputs_hold_weights: bool, tmp_path: Path) -> None:
    # before IR version 4 weights had to be listed as inputs
    ir_version = 3 if inputs_hold_weights else 6
    model = convnet(opset=opset, ir_version=ir_version, inputs_hold_weights=inputs_hold_weights)
    graph = load_graph(save(model, tmp_path / "old.onnx"))
    assert graph.opset_imports[""] == OPSETS.start
    assert [value.name for value in graph.graph.inputs] == ["x"]
    onnx.checker.check_model(to_bytes(graph), full_check=True)
    np.testing.assert_array_equal(
        run(to_bytes(graph), inputs())[0], run(model.SerializeToString(), inputs())[0]
    )


def test_attributes_that_became_inputs_are_converted(tmp_path: Path) -> None:
    # Squeeze, Unsqueeze, ReduceSum and Clip had attributes before opset 11 and 13
    nodes = [
        helper.make_node("Clip", ["x"], ["a"], min=-0.5, max=0.5),
        helper.make_node("Unsqueeze", ["a"], ["b"], axes=[0]),
        helper.make_node("Squeeze", ["b"], ["c"], axes=[0]),
        helper.make_node("ReduceSum", ["c"], ["d"], axes=[2, 3], keepdims=0),
        helper.make_node("Dropout", ["d"], ["y"], ratio=0.5),
    ]
    borders = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    model = helper.make_model(
        helper.make_graph(nodes, "old", *borders), opset_imports=[helper.make_opsetid("", 9)], ir_version=4
    )
    graph = load_graph(save(model, tmp_path / "old.onnx"))
    onnx.checker.check_model(to_bytes(graph), full_check=True)
    np.testing.assert_allclose(
        run(to_bytes(graph), inputs())[0], run(model.SerializeToString(), inputs())[0], rtol=1e-6
    )


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    onnx.save(convnet(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    graph = load_graph(tmp_path / "m.onnx")
    np.testing.assert_array_equal(
        run(to_bytes(graph), inputs())[0], run(convnet().SerializeToString(), inputs())[0]
    )


def foreign(*, exported: bool = False) -> onnx.ModelProto:
    """Weights in Constant nodes, Identity nodes, a batch norm that is not folded."""
    net = Net()
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.standard_normal((8, 3, 3, 3)).astype(np.float32))
    net.split("Constant", names=["w"], value=weight)
    x = net.add("Conv", net.add("Identity", "image"), net.add("Identity", "w"), pads=[1, 1, 1, 1])
    statistics = [
        random.uniform(0.5, 1.5, 8),
        random.normal(size=8),
        random.normal(size=8),
        random.uniform(1, 2, 8),
    ]
    x = net.add("BatchNormalization", x, *(net.constant(values) for values in statistics))
    return net.model(net.add("Identity", net.pooled(net.relu(x))), exported=exported)


def test_a_foreign_model_is_simplified(tmp_path: Path) -> None:
    model = foreign()
    graph = load_graph(save(model, tmp_path / "foreign.onnx"))
    operators = Counter(node.op_type for node in graph.graph)
    assert operators == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1}
    assert sqnr_db(run(model.SerializeToString(), inputs()), run(to_bytes(graph), inputs())) > 100
    assert all(
        value.shape is not None and value.dtype is not None for node in graph.graph for value in node.outputs
    )
    assert [value.name for value in graph.graph.outputs] == [value.name for value in model.graph.output]


def test_a_model_that_edgecnn_exported_keeps_its_nodes(tmp_path: Path) -> None:
    model = foreign(exported=True)
    graph = load_graph(save(model, tmp_path / "exported.onnx"))
    # constants alone are lifted: nothing else may rename what a quantization table names
    kept = [node.op_type for node in model.graph.node if node.op_type != "Constant"]
    assert [node.op_type for node in graph.graph] == kept
    assert graph.graph.initializers["w"].const_value is not None


def test_metadata_survive_conversion_and_saving(tmp_path: Path) -> None:
    model = convnet(opset=11)
    helper.set_model_props(model, {"someone's": "note", EXPORT_KEY: "{}"})
    graph = load_graph(save(model, tmp_path / "a.onnx"))
    save_graph(graph, tmp_path / "b.onnx")
    assert dict(load_graph(tmp_path / "b.onnx").metadata_props) == {"someone's": "note", EXPORT_KEY: "{}"}


def test_saving_does_not_overwrite_unasked(tmp_path: Path) -> None:
    graph = load_graph(save(convnet(), tmp_path / "a.onnx"))
    with pytest.raises(OutputExistsError):
        save_graph(graph, tmp_path / "a.onnx")


def test_a_constant_is_shared_only_with_its_like(tmp_path: Path) -> None:
    graph = load_graph(save(convnet(), tmp_path / "a.onnx")).graph
    first = constant(graph, "c", np.float32(1))
    assert constant(graph, "c", np.float32(1)) is first
    assert constant(graph, "c", np.float32(2)).name == "c_"
    assert constant(graph, "c", np.uint8(1)).name == "c__"
    assert constant(graph, "w", np.float32(1)).name == "w_"  # the network's own parameter
