from __future__ import annotations

import platform
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgecnn.backends.onnxruntime as backend_module
from edgecnn.backends import TensorInfo, open_backend
from edgecnn.backends.onnxruntime import OnnxRuntimeBackend, create_session, needs_precise_int8
from edgecnn.errors import ClosedError, InferenceError, ModelFormatError
from tests.broken import BROKEN, convnet
from tests.networks import inputs, save


@pytest.fixture
def convnet_path(tmp_path: Path) -> Path:
    return save(convnet(), tmp_path / "convnet.onnx")


def test_says_what_it_opened(convnet_path: Path) -> None:
    backend = OnnxRuntimeBackend(convnet_path)
    assert backend.name == "onnxruntime"
    assert backend.inputs == (TensorInfo("x", (None, 3, 8, 8), "float32"),)
    assert backend.outputs == (TensorInfo("y", (None, 4), "float32"),)


@pytest.mark.parametrize(("threads", "device"), [(None, "CPU"), (2, "CPU, 2 threads")])
def test_threads_are_as_asked(threads: int | None, device: str, convnet_path: Path) -> None:
    assert OnnxRuntimeBackend(convnet_path, threads=threads).device == device
    session = create_session(convnet_path, threads=threads)
    assert session.get_session_options().intra_op_num_threads == (threads or 0)


def test_reads_metadata(tmp_path: Path) -> None:
    model = convnet()
    helper.set_model_props(model, {"key": "välue"})
    assert OnnxRuntimeBackend(model.SerializeToString()).metadata == {"key": "välue"}


def test_runs_from_a_path_and_from_bytes(convnet_path: Path) -> None:
    from_path = OnnxRuntimeBackend(convnet_path).run({"x": inputs()})
    from_bytes = OnnxRuntimeBackend(convnet_path.read_bytes()).run({"x": inputs()})
    assert list(from_path) == ["y"]
    np.testing.assert_array_equal(from_path["y"], from_bytes["y"])


def test_outputs_belong_to_the_caller(convnet_path: Path) -> None:
    backend = OnnxRuntimeBackend(convnet_path)
    first = backend.run({"x": inputs(seed=1)})["y"]
    kept = first.copy()
    backend.run({"x": inputs(seed=2)})
    np.testing.assert_array_equal(first, kept)


def test_many_threads_may_run_at_once(convnet_path: Path) -> None:
    backend = OnnxRuntimeBackend(convnet_path, threads=1)
    expected = [backend.run({"x": inputs(seed=seed)})["y"] for seed in range(4)]
    right: list[bool] = []

    def work(seed: int) -> None:
        values = inputs(seed=seed)
        right.extend(np.array_equal(backend.run({"x": values})["y"], expected[seed]) for _ in range(50))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert right == [True] * 200


def test_a_failure_while_running_is_translated(convnet_path: Path) -> None:
    backend = OnnxRuntimeBackend(convnet_path)
    with pytest.raises(InferenceError, match="ONNX Runtime failed") as caught:
        backend.run({"x": np.zeros((1, 3, 9, 8), np.float32)})
    assert "\n" not in str(caught.value)
    assert "[ONNXRuntimeError]" not in str(caught.value)


def test_closed(convnet_path: Path) -> None:
    backend = OnnxRuntimeBackend(convnet_path)
    backend.close()
    backend.close()
    with pytest.raises(ClosedError):
        backend.run({"x": inputs()})


# a model's last word on what it is comes from what runs it
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_gives_one_line(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    BROKEN[kind](path)
    with pytest.raises(ModelFormatError) as caught:
        open_backend(path)
    message = str(caught.value)
    assert message.startswith(("ONNX Runtime does not accept", str(path)))
    assert "\n" not in message
    assert "onnxruntime_src" not in message
    assert capfd.readouterr() == ("", "")  # nothing printed behind our back


def test_remedies(tmp_path: Path) -> None:
    said = {}
    for kind in ("opset_99", "ir_version_99", "missing_external_data", "truncated", "empty"):
        folder = tmp_path / kind
        folder.mkdir()
        BROKEN[kind](folder / "model.onnx")
        with pytest.raises(ModelFormatError) as caught:
            create_session(folder / "model.onnx")
        said[kind] = str(caught.value)
    assert "--opset 19" in said["opset_99"]
    assert "newer ONNX Runtime" in said["ir_version_99"]
    assert "same folder" in said["missing_external_data"]
    assert "not a whole ONNX file" in said["truncated"]
    assert "0 bytes" in said["empty"]


def test_a_type_that_has_no_numpy_counterpart(tmp_path: Path) -> None:
    text = helper.make_tensor_value_info("x", TensorProto.STRING, [1])
    result = helper.make_tensor_value_info("y", TensorProto.STRING, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "text", [text], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelFormatError, match=r"x has a type .*tensor\(string\)"):
        OnnxRuntimeBackend(save(model, tmp_path / "text.onnx"))


def test_the_optimized_graph_can_be_read_back(convnet_path: Path, tmp_path: Path) -> None:
    create_session(convnet_path, optimized_path=tmp_path / "optimized.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "Conv" in operators
    assert "Relu" not in operators  # fused


def test_unoptimized_means_unoptimized(convnet_path: Path, tmp_path: Path) -> None:
    create_session(convnet_path, optimized=False, optimized_path=tmp_path / "plain.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "plain.onnx").graph.node]
    assert operators == [node.op_type for node in convnet().graph.node]


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fma avx2", True),
        ("x86_64", "avx512f avx512bw", True),
        ("x86_64", "avx2 avx_vnni", False),
        ("AMD64", "avx512f avx512_vnni", False),
        ("aarch64", "asimd", False),
    ],
)
def test_exact_int8_is_asked_for_without_vnni(
    machine: str, flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags : {flags}")
    assert needs_precise_int8() == expected


def test_an_unknown_x86_is_taken_for_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(self: Path) -> str:
        raise PermissionError

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", unreadable)
    assert needs_precise_int8()


def test_the_option_reaches_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "session.x64quantprecision"
    for precise in (False, True):
        monkeypatch.setattr(backend_module, "needs_precise_int8", lambda precise=precise: precise)
        options = create_session(convnet().SerializeToString()).get_session_options()
        if precise:
            assert options.get_session_config_entry(key) == "1"
        else:
            with pytest.raises(RuntimeError, match=key):
                options.get_session_config_entry(key)
