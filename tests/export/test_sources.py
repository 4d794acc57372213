"""Where modules come from, and what is said when they do not."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")
import onnx
import torch
from torch import nn

from edgecnn.errors import (
    BackendUnavailableError,
    EdgeCNNError,
    ExportError,
    ModelFormatError,
    ModelNotFoundError,
    UnsafeWeightsError,
)
from edgecnn.export import export_onnx, load_source
from edgecnn.export.sources.factory import parse_arguments
from edgecnn.metadata import EXPORT_KEY, read_json
from tests.export.networks import SIZE, ManyOutputs, Residual, spec, trained

HERE = "tests.export.userland"

# torch says of its own TorchScript functions that they are deprecated; users have such files all the same.
ignore_torchscript = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
# torch.export pickles its own deprecated class.
ignore_treespec = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")


def save_pt2(module: nn.Module, path: Path, *, dynamic: bool = False, size: int = SIZE) -> Path:
    shapes: Any = ({0: torch.export.Dim("n")},) if dynamic else None
    image = torch.zeros(2 if dynamic else 1, 3, size, size)
    torch.export.save(torch.export.export(module, (image,), dynamic_shapes=shapes), path)
    return path


def test_arguments() -> None:
    parsed = parse_arguments(
        ["efficientnet-lite0", "3", "width=1.5", "sizes=(1, 2)", "name=None", '"a=b"', "x=y=z"]
    )
    assert parsed.positional == ("efficientnet-lite0", 3, "a=b")
    assert parsed.named == {"width": 1.5, "sizes": (1, 2), "name": None, "x": "y=z"}
    with pytest.raises(ExportError, match="given twice"):
        parse_arguments(["a=1", "a=2"])


def test_factory_with_arguments_and_weights(tmp_path: Path) -> None:
    made = load_source(f"{HERE}:Models.small", arguments=["4", "width=6"])
    assert isinstance(made.module, nn.Module)
    assert made.module[-1].out_features == 4  # type: ignore[index]
    torch.save({"state_dict": made.module.state_dict()}, tmp_path / "w.pth")
    again = load_source(f"{HERE}:Models.small", arguments=["4", "width=6"], weights=tmp_path / "w.pth")
    assert torch.equal(again.module[0].weight, made.module[0].weight)  # type: ignore[index]
    assert again.origin["factory"] == f"{HERE}:Models.small"
    assert again.origin["arguments"] == ["4", "width=6"]
    assert again.origin["weights"]["file"] == "w.pth"
    assert len(again.origin["weights"]["sha256"]) == 64
    with pytest.raises(ModelFormatError, match=r"2 of another shape.*--arg num_classes"):
        load_source(f"{HERE}:Models.small", arguments=["3", "width=6"], weights=tmp_path / "w.pth")


def test_origin_keeps_no_folder() -> None:
    made = load_source(f"{HERE}:Models.small", arguments=["classes=5"])
    assert made.origin["arguments"] == ["classes=5"]
    from edgecnn.export.sources import _without_folders

    assert _without_folders("checkpoint=/home/me/secret/w.pth") == "checkpoint=w.pth"
    assert _without_folders("~/secret/w.pth") == "w.pth"
    assert _without_folders("configs/small.yaml") == "configs/small.yaml"


def test_averaged_weights_are_mentioned(tmp_path: Path) -> None:
    state = load_source(f"{HERE}:Models.small").module.state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "w.pth")
    made = load_source(f"{HERE}:Models.small", weights=tmp_path / "w.pth")
    assert "averaged weights (state_dict_ema)" in made.notes[0]


def test_module_that_is_there_already() -> None:
    assert isinstance(load_source(f"{HERE}:READY").module, Residual)
    with pytest.raises(ExportError, match="is a module already"):
        load_source(f"{HERE}:READY", arguments=["1"])


def test_current_folder_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynet_in_cwd.py").write_text("import torch\ndef make(): return torch.nn.Conv2d(3, 4, 1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mynet_in_cwd", raising=False)
    assert isinstance(load_source("mynet_in_cwd:make").module, nn.Conv2d)
    sys.modules.pop("mynet_in_cwd", None)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("no_such_package.models:make", [], "no module no_such_package"),
        ("tests.export.nothing_here:make", [], "no module tests.export.nothing_here"),
        (f"{HERE}:Models.smal", [], "has no smal. Perhaps small"),
        (f"{HERE}:", [], "names no factory"),
        (f"{HERE}:NUMBER", [], "makes no module: got a int"),
        (f"{HERE}:nothing", [], "returned no module: got a dict"),
        (f"{HERE}:failing", [], "failed: got ValueError: no such dataset:"),
        (f"{HERE}:leaving", [], "failed: got SystemExit: 3"),
        (f"{HERE}:failing", ["1"], "cannot be called like this"),
        (f"{HERE}:Models.small", ["klasses=3"], "cannot be called like this.*klasses"),
        ("models/net.py:make", [], "Perhaps models.net:…"),
        ("resnet18", [], "cannot tell what resnet18 is.*torchvision:resnet18"),
        ("model.onnx", [], "does not exist"),
        ("model.pt2", [], "does not exist"),
    ],
)
def test_wrong_sources(text: str, arguments: list[str], message: str) -> None:
    with pytest.raises(EdgeCNNError, match=message) as caught:
        load_source(text, arguments=arguments)
    assert isinstance(caught.value, (ExportError, ModelNotFoundError))
    assert len(str(caught.value)) < 400


def test_user_code_that_misses_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_library_that_nobody_has\n")
    (tmp_path / "broken_code.py").write_text("def make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExportError, match="Install what it needs: a_library_that_nobody_has"):
        load_source("needs_more:make")
    with pytest.raises(ExportError, match="broken_code cannot be imported: got SyntaxError"):
        load_source("broken_code:make")


def test_missing_weights_are_noticed_before_anything_is_imported(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"weights .* does not exist"):
        load_source("no_such_package:make", weights=tmp_path / "w.pth")


@pytest.mark.parametrize(("saved", "batch"), [(False, 1), (True, None), (True, 1), (True, 4)])
@ignore_treespec
def test_exported_program(saved: bool, batch: int | None, tmp_path: Path) -> None:
    path = save_pt2(trained(Residual()).eval(), tmp_path / "net.pt2", dynamic=saved)
    source = load_source(str(path))
    assert source.size_hw == (SIZE, SIZE)
    assert source.name == "net"
    result = export_onnx(source.module, spec(), tmp_path / "model.onnx", batch=batch, source=source.origin)
    assert result.inputs[0].shape == (batch, 3, SIZE, SIZE)
    assert result.outputs[0].shape == (batch, 5)
    model = onnx.load(result.path)
    assert [node.name for node in model.graph.node][:5] == ["conv1", "relu", "conv2", "Add", "relu_1"]
    for info in model.graph.value_info:
        sides = info.type.tensor_type.shape.dim
        assert (sides[0].dim_param == "batch") if batch is None else (sides[0].dim_value == batch)
    origin = read_json({entry.key: entry.value for entry in model.metadata_props}, EXPORT_KEY)
    assert origin is not None
    assert origin["source"]["file"] == "net.pt2"
    assert str(tmp_path).encode() not in result.path.read_bytes()


@ignore_treespec
def test_exported_program_that_does_not_fit(tmp_path: Path) -> None:
    fixed = load_source(str(save_pt2(trained(Residual()).eval(), tmp_path / "a.pt2"))).module
    with pytest.raises(ExportError, match=r"got batch dynamic, expected batch 1. Use --batch 1"):
        export_onnx(fixed, spec(), tmp_path / "model.onnx", batch=None)
    other = load_source(str(save_pt2(trained(Residual()).eval(), tmp_path / "b.pt2", size=24))).module
    with pytest.raises(ExportError, match=r"got NCHW \(3, 16, 16\), expected \(3, 24, 24\)"):
        export_onnx(other, spec(), tmp_path / "model.onnx")


@ignore_treespec
def test_program_exported_in_training_mode(tmp_path: Path) -> None:
    path = save_pt2(trained(Residual()).train(), tmp_path / "net.pt2")
    with pytest.raises(ExportError, match=r"Call module.eval\(\) before torch.export.export"):
        export_onnx(load_source(str(path)).module, spec(), tmp_path / "model.onnx")


@ignore_treespec
def test_program_with_native_code_or_pickles_is_refused(tmp_path: Path) -> None:
    path = save_pt2(trained(Residual()).eval(), tmp_path / "net.pt2")
    for added in ("net/data/aotinductor/model/code.so", "net/data/constants/opaque_obj_0"):
        other = tmp_path / "other.pt2"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
            new.writestr(added, b"anything")
        with pytest.raises(UnsafeWeightsError, match=Path(added).name):
            load_source(str(other))


def test_pickle_in_a_program_is_not_run(tmp_path: Path) -> None:
    """torch.export.load falls back to the unsafe loader by itself, so its sample inputs could run code."""
    import io

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    path = save_pt2(trained(Residual()).eval(), tmp_path / "net.pt2")
    payload = io.BytesIO()
    torch.save((Evil(),), payload)
    evil = tmp_path / "evil.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(evil, "w") as new:
        replaced = 0
        for name in old.namelist():
            is_sample = "sample_inputs" in name
            replaced += is_sample
            new.writestr(name, payload.getvalue() if is_sample else old.read(name))
    assert replaced
    with pytest.raises(UnsafeWeightsError, match="--unsafe-weights"):
        load_source(str(evil))
    assert not (tmp_path / "owned").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("kind", ["trace", "script", "frozen"])
@pytest.mark.parametrize("batch", [1, None])
@ignore_torchscript
def test_torchscript_file(kind: str, batch: int | None, tmp_path: Path) -> None:
    module = trained(Residual()).eval()
    tools: Any = torch.jit  # partly without annotations
    scripted = tools.trace(module, torch.zeros(1, 3, SIZE, SIZE)) if kind == "trace" else tools.script(module)
    if kind == "frozen":
        scripted = tools.freeze(scripted)
    tools.save(scripted, tmp_path / "net.pt")
    source = load_source(str(tmp_path / "net.pt"))
    result = export_onnx(source.module, spec(), tmp_path / "model.onnx", batch=batch)
    assert result.exporter == "torchscript"
    assert dict(result.node_counts) == {
        "Conv": 2,
        "Relu": 2,
        "Add": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    assert result.outputs[0].shape == (batch, 5)
    names = [node.name for node in onnx.load(result.path).graph.node]
    if kind != "frozen":  # freezing folds the weights into the program, and their names are lost
        assert names == ["conv1", "Relu", "conv2", "Add", "Relu_1", "GlobalAveragePool", "Flatten", "fc"]


class Asking(nn.Module):
    """Asks for sides and branches on one: all known but the batch. Its `self` has another name, too."""

    def __init__(this) -> None:  # noqa: N805
        super().__init__()
        this.conv = nn.Conv2d(3, 8, 3)

    def forward(this, image: torch.Tensor) -> torch.Tensor:  # noqa: N805
        x = this.conv(image)
        if x.shape[2] > 10:
            x = x[:, :, ::2]
        return torch.nn.functional.interpolate(x, size=(x.shape[2] * 2, x.shape[3])).mean((2, 3))


@ignore_torchscript
def test_scripted_branch_on_a_known_side_is_decided(tmp_path: Path) -> None:
    module = torch.jit.script(trained(Asking()).eval())
    result = export_onnx(module, spec(), tmp_path / "model.onnx", batch=None)
    assert dict(result.node_counts) == {
        "Conv": 1,
        "Slice": 1,
        "Resize": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
    }


@ignore_torchscript
def test_torchscript_file_exporter(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(trained(Residual()).eval()), tmp_path / "net.pt")
    with pytest.raises(ExportError, match=r"torch.export takes no TorchScript"):
        export_onnx(
            load_source(str(tmp_path / "net.pt")).module, spec(), tmp_path / "m.onnx", exporter="dynamo"
        )
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ExportError, match=r"--weights is for modules made by Python code"):
        load_source(str(tmp_path / "net.pt"), weights=tmp_path / "w.pth")


def test_file_of_a_whole_module(tmp_path: Path) -> None:
    torch.save(trained(ManyOutputs()), tmp_path / "module.pth")
    with pytest.raises(UnsafeWeightsError, match="ManyOutputs"):
        load_source(str(tmp_path / "module.pth"))
    assert isinstance(load_source(str(tmp_path / "module.pth"), unsafe_weights=True).module, ManyOutputs)


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    torch.save(Residual().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ExportError, match=r"holds weights alone.*package.module:factory --weights"):
        load_source(str(tmp_path / "weights.pth"))
    (tmp_path / "text.pt2").write_text("hello")
    with pytest.raises(ModelFormatError, match=r"is not a weights file|is damaged"):
        load_source(str(tmp_path / "text.pt2"))
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ExportError, match="is an ONNX file already"):
        load_source(str(tmp_path / "model.onnx"))
    with pytest.raises(ExportError, match="--arg is for factories"):
        load_source(str(tmp_path / "weights.pth"), arguments=["1"])


@ignore_treespec
def test_truncated_programs(tmp_path: Path) -> None:
    path = save_pt2(trained(Residual()).eval(), tmp_path / "net.pt2")
    data = path.read_bytes()
    for part in (0.3, 0.9, 0.999):
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises(ModelFormatError, match=r"net.pt2") as caught:
            load_source(str(path))
        assert "\n" not in str(caught.value)


def test_torchvision_spec(torchvision: ModuleType) -> None:
    source = load_source("torchvision:efficientnet_b3", arguments=["num_classes=7"])
    assert source.spec is not None
    image = source.spec.image
    assert (image.size_hw, image.resize, image.resize_hw, image.interpolation) == (
        (300, 300),
        "crop",
        (320, 320),
        "area",
    )
    assert image.mean == (0.485, 0.456, 0.406)
    assert "random weights" in source.notes[0]
    segments = load_source("torchvision:lraspp_mobilenet_v3_large").spec
    assert segments is not None
    assert (segments.task, segments.image.size_hw, segments.image.resize) == (
        "segmentation",
        (520, 520),
        "letterbox",
    )


def test_torchvision_unknown(torchvision: ModuleType) -> None:
    with pytest.raises(ExportError, match=r"has no model 'resnet19'.*Perhaps .*resnet18"):
        load_source("torchvision:resnet19")
    with pytest.raises(ExportError, match="cannot make resnet18 like this"):
        load_source("torchvision:resnet18", arguments=["no_such_option=1"])
    with pytest.raises(ExportError, match="take named arguments"):
        load_source("torchvision:resnet18", arguments=["10"])


def test_timm_spec(torchvision: ModuleType) -> None:
    timm = pytest.importorskip("timm")
    source = load_source("timm:efficientnet_lite0", arguments=["num_classes=3"])
    config = timm.create_model("efficientnet_lite0").pretrained_cfg
    assert source.spec is not None
    image = source.spec.image
    assert image.size_hw == config["input_size"][1:]
    assert image.mean == config["mean"]
    assert image.resize_hw == (256, 256)  # 224 / 0.875
    assert image.interpolation == "area"
    assert source.origin == {"factory": "timm:efficientnet_lite0", "arguments": ["num_classes=3"]}
    with pytest.raises(
        ExportError, match=r"timm has no model 'efficientnet_light0'.*Perhaps .*efficientnet_lite0"
    ):
        load_source("timm:efficientnet_light0")


def test_timm_crop_is_rounded_down_and_squash_stretches() -> None:
    from edgecnn.export.sources.zoo import _timm_spec

    config = {"input_size": (3, 240, 240), "crop_pct": 0.95, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    made = _timm_spec("x", config)
    assert made is not None
    assert made.image.resize_hw == (252, 252)  # 252.6: timm rounds down
    squashed = _timm_spec("x", {**config, "crop_mode": "squash"})
    assert squashed is not None
    assert (squashed.image.resize, squashed.image.resize_hw) == ("stretch", None)
    assert _timm_spec("x", {**config, "input_size": (5, 240, 240), "mean": (0.5,) * 5}) is None


def test_collection_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # Python's own way to say that there is none
    with pytest.raises(BackendUnavailableError, match=r"timm is not installed. pip install timm"):
        load_source("timm:resnet18")
