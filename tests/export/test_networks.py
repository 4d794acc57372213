"""Each construction that CNNs are made of: exported, folded, and the same numbers as PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
import onnxruntime
import torch
from torch import nn

from edgecnn.errors import ExportError
from edgecnn.export import export_onnx
from edgecnn.spec import ModelSpec
from tests.export.networks import (
    NETWORKS,
    SIZE,
    Branching,
    Dropping,
    Exported,
    ManyOutputs,
    Residual,
    ThreeMeans,
    head,
    spec,
    trained,
)


def run_onnx(path: Path, image: np.ndarray[Any, np.dtype[np.float32]]) -> list[Any]:
    """An independent check: not through anything of edgecnn's."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"image": image}))


def images(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(7).normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)


def operators(path: Path) -> Mapping[str, int]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(
    ("name", "batch"),
    [*((name, None) for name in NETWORKS), ("residual", 1), ("shuffle", 1), ("flatten_only", 1)],
)
def test_network(name: str, batch: int | None, exported: Exported) -> None:
    module, result = exported(name, batch)
    expected_operators = NETWORKS[name][1]
    assert operators(result.path) == expected_operators
    assert result.node_counts == expected_operators
    assert result.parity.worst.relative_error < 1e-5
    assert result.parity.top1_agreement == 1.0
    assert result.parity.batches == ((1,) if batch else (1, 2, 3))
    module.eval()
    for count in (1,) if batch else (1, 4):
        with torch.no_grad():
            reference = module(torch.from_numpy(images(count))).numpy()
        np.testing.assert_allclose(run_onnx(result.path, images(count))[0], reference, rtol=1e-4, atol=1e-5)


def test_file_is_complete(exported: Exported) -> None:
    model = onnx.load(exported("residual")[1].path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
    shapes = {info.name: info.type.tensor_type for info in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        for name in node.output:
            assert all(side.dim_value > 0 for side in shapes[name].shape.dim), name
        assert not node.doc_string
        assert not node.metadata_props
    assert {info.name for info in model.graph.value_info}.isdisjoint(t.name for t in model.graph.initializer)


def test_names_are_those_of_the_modules(exported: Exported) -> None:
    model = onnx.load(exported("residual")[1].path)
    assert [(node.op_type, node.name) for node in model.graph.node] == [
        ("Conv", "conv1"), ("Relu", "relu"), ("Conv", "conv2"), ("Add", "Add"), ("Relu", "relu_1"),
        ("GlobalAveragePool", "pool"), ("Flatten", "Flatten"), ("Gemm", "fc"),
    ]  # fmt: skip
    assert [node.output[0] for node in model.graph.node][:-1] == [node.name for node in model.graph.node][:-1]
    assert model.graph.node[-1].output[0] == "logits"
    assert {tensor.name for tensor in model.graph.initializer} == {
        "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "fc.weight", "fc.bias",
    }  # fmt: skip


def test_names_of_nested_and_functional_operators(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(3, 3, 3, padding=1, groups=3)
            self.act = nn.SiLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.act(self.depthwise(x)) + x
            return y

    module = nn.Sequential(Block(), Block(), nn.ReLU6(), nn.ReLU6())
    result = export_onnx(trained(module), spec("raw"), tmp_path / "model.onnx")
    names = [node.name for node in onnx.load(result.path).graph.node]
    assert names[:4] == ["0.depthwise", "0.act/Sigmoid", "0.act/Mul", "0/Add"]
    assert names[4:] == [
        "1.depthwise",
        "1.act/Sigmoid",
        "1.act/Mul",
        "1/Add",
        "3",
    ]  # two Clips in a row are one


def test_nothing_of_this_machine_is_in_the_file(exported: Exported) -> None:
    path = exported("residual")[1].path
    data = path.read_bytes()
    for secret in (str(Path(__file__).parent), str(Path(torch.__file__).parents[1]), str(path.parent), ".py"):
        assert secret.encode() not in data


def test_same_module_same_bytes(tmp_path: Path) -> None:
    export_onnx(trained(Residual()), spec(), tmp_path / "a.onnx")
    export_onnx(
        trained(ManyOutputs()), spec("raw"), tmp_path / "between.onnx"
    )  # leaves torch's counters moved
    export_onnx(trained(Residual()), spec(), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_every_spelling_of_the_global_average(tmp_path: Path) -> None:
    result = export_onnx(trained(ThreeMeans()), spec(), tmp_path / "model.onnx", batch=None)
    found = operators(result.path)
    assert found["GlobalAveragePool"] == 3
    assert found["ReduceMean"] == found["AveragePool"] == 0


def test_shared_head_gets_a_copy_for_each_batch_norm(tmp_path: Path) -> None:
    module = trained(ManyOutputs())
    result = export_onnx(module, spec("raw"), tmp_path / "model.onnx")
    assert result.node_counts == {"Conv": 4}
    assert [info.name for info in result.outputs] == ["fine", "coarse"]
    names = {tensor.name for tensor in onnx.load(result.path).graph.initializer}
    assert {"head.weight", "head.bias", "head_1.weight", "head_1.bias"} <= names
    with torch.no_grad():
        reference = module.eval()(torch.from_numpy(images(1)))
    for actual, name in zip(run_onnx(result.path, images(1)), ("fine", "coarse"), strict=True):
        np.testing.assert_allclose(actual, reference[name].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 18, 21, 23])
def test_every_opset(opset: int, tmp_path: Path) -> None:
    result = export_onnx(trained(Residual()), spec(), tmp_path / "model.onnx", opset=opset)
    model = onnx.load(result.path)
    assert model.opset_import[0].version == result.opset == opset
    assert model.ir_version <= 10
    assert operators(result.path)["GlobalAveragePool"] == 1


def test_fixed_batch_of_three_and_progress(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    result = export_onnx(
        trained(Residual()),
        spec(),
        tmp_path / "model.onnx",
        batch=3,
        progress=lambda *step: told.append(step),
    )
    stages = ["check the module", "translate to ONNX", "simplify", "compare with PyTorch", "write"]
    assert told == [(stage, done, 1) for stage in stages for done in (0, 1)]
    assert result.inputs[0].shape == (3, 3, SIZE, SIZE)
    assert result.outputs[0].shape == (3, 5)


def test_no_operator_knows_the_batch(tmp_path: Path, exported: Exported) -> None:
    """A file for one image can be given another batch by rewriting its input alone."""
    module, result = exported("shuffle", 1)
    model = onnx.load(result.path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "three.onnx")
    with torch.no_grad():
        reference = module.eval()(torch.from_numpy(images(3))).numpy()
    np.testing.assert_allclose(
        run_onnx(tmp_path / "three.onnx", images(3))[0], reference, rtol=1e-4, atol=1e-5
    )


def test_nhwc_module(tmp_path: Path) -> None:
    class Nhwc(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = head(nn.Conv2d(3, 8, 3), nn.ReLU())

        def forward(self, image: torch.Tensor) -> Any:
            return self.net(image.permute(0, 3, 1, 2))

    from edgecnn.spec import image_spec

    nhwc = ModelSpec(task="classification", image=image_spec("imagenet", size_hw=(SIZE, SIZE), layout="NHWC"))
    result = export_onnx(trained(Nhwc()), nhwc, tmp_path / "model.onnx", batch=None)
    assert result.inputs[0].shape == (None, SIZE, SIZE, 3)


def test_module_is_left_as_it_was(tmp_path: Path) -> None:
    module: Any = trained(Dropping()).train()
    module.conv.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export_onnx(module, spec(), tmp_path / "model.onnx")
    assert module.training
    assert module.drop.training
    assert not module.conv.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (nn.Identity(), {"scores": "logits"}),
        (nn.Softmax(dim=1), {"scores": "probabilities"}),
        (
            nn.Sequential(nn.Sigmoid(), nn.Unflatten(1, (5, 1, 1))),
            {"scores": "probabilities", "multi_label": True},
        ),
        (nn.LogSoftmax(dim=1), {"scores": "logits"}),  # softmax of it gives the probabilities, as of logits
    ],
    ids=["linear", "softmax", "sigmoid", "log_softmax"],
)
def test_head_is_read_from_the_graph(last: nn.Module, expected: dict[str, Any], tmp_path: Path) -> None:
    module = trained(nn.Sequential(head(nn.Conv2d(3, 8, 3)), last))
    result = export_onnx(module, spec(), tmp_path / "model.onnx")
    assert result.spec.head == expected
    assert result.outputs[0].name == ("logits" if expected["scores"] == "logits" else "probabilities")


def test_what_the_user_says_of_the_head_stays(tmp_path: Path) -> None:
    module = trained(NETWORKS["softmax"][0]())
    result = export_onnx(module, spec(scores="logits"), tmp_path / "model.onnx")
    assert result.spec.head == {"scores": "logits"}
    assert "ends in Softmax" in result.notes[0]


def test_tracer_on_request(tmp_path: Path) -> None:
    result = export_onnx(
        trained(Branching()), spec(), tmp_path / "model.onnx", exporter="torchscript", batch=None
    )
    assert result.exporter == "torchscript"
    assert result.node_counts == {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1}


class Plain(nn.Module):
    """Nothing to compute: identities, and one tensor under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.same = nn.Sequential(nn.Identity(), nn.Dropout2d(0.9))

    def forward(self, image: torch.Tensor) -> Any:
        x = self.same(self.conv(self.same(image)))
        return x, [x, None], image


def test_identities_vanish_and_outputs_stay(tmp_path: Path) -> None:
    result = export_onnx(trained(Plain()), spec("raw"), tmp_path / "model.onnx", batch=None)
    assert [info.name for info in result.outputs] == ["output_0", "output_1_0", "output_2"]
    assert result.node_counts == {
        "Identity": 2,
        "Conv": 1,
    }  # ONNX has no other way to give one tensor two names
    first, second, third = run_onnx(result.path, images(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(third, images(2))


def test_wrapped_modules(tmp_path: Path) -> None:
    plain = export_onnx(trained(Residual()), spec(), tmp_path / "plain.onnx")
    module: Any = torch.compile(nn.DataParallel(trained(Residual())), backend="eager")
    wrapped = export_onnx(module, spec(), tmp_path / "wrapped.onnx")
    assert plain.path.read_bytes() == wrapped.path.read_bytes()


def test_modules_in_another_precision_or_place(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the module's weights are not float32: got torch.float16"):
        export_onnx(trained(Residual()).half(), spec(), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"the module is not on the CPU: got meta.*module.cpu\(\)"):
        export_onnx(Residual().to("meta"), spec(), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"cannot export this: got a function"):
        export_onnx(run_onnx, spec(), tmp_path / "model.onnx")  # type: ignore[arg-type]


def test_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.export.exporter._MAX_BYTES", 1000)
    with pytest.raises(ExportError, match=r"does not fit into one ONNX file"):
        export_onnx(trained(Residual()), spec(), tmp_path / "model.onnx")
