"""Weights files: what is found in them, what is refused, and that nothing in them is run."""

from __future__ import annotations

import builtins
import pickle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from edgecnn.errors import BackendUnavailableError, ModelFormatError, ModelNotFoundError, UnsafeWeightsError
from edgecnn.export import load_weights
from edgecnn.export.weights import apply_weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.arange(2.0)}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)


class Payload:
    """A pickle that calls a function while it is loaded. It leaves a trace here, and could do anything."""

    calls = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return (_note_the_call, ())


def _note_the_call() -> int:
    Payload.calls += 1
    return 0


def save(value: Any, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda t: t, ""),
        (lambda t: {"state_dict": t, "epoch": 7, "best": 0.9}, "state_dict"),
        (lambda t: {"model": t, "optimizer": {"state": {}, "param_groups": []}}, "model"),
        (lambda t: {"model_state_dict": t, "loss": torch.tensor(0.5)}, "model_state_dict"),
        (lambda t: {"model": t, "ema": {"module": t}}, "ema.module"),
        (lambda t: {"ema": None, "state_dict": t}, "state_dict"),
        (lambda t: {"my_own_key": t, "epoch": 3}, "my_own_key"),
        (lambda t: {f"module.{name}": tensor for name, tensor in t.items()}, ""),
        (lambda t: {f"module._orig_mod.{name}": tensor for name, tensor in t.items()}, ""),
        (
            lambda t: {
                "n_averaged": torch.tensor(3),
                **{f"module.{name}": value for name, value in t.items()},
            },
            "",
        ),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_found(wrap: Any, key: str, zipped: bool, tmp_path: Path) -> None:
    path = save(wrap(TENSORS), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    state, found_key = load_weights(path)
    assert found_key == key
    module = Net()
    apply_weights(module, state, path)
    assert torch.equal(module.a.weight, TENSORS["a.weight"])
    assert torch.equal(module.a.bias, TENSORS["a.bias"])


def test_prefix_that_the_module_has_itself_stays() -> None:
    module = nn.ModuleDict({"module": Net()})
    apply_weights(module, {f"module.{name}": tensor for name, tensor in TENSORS.items()}, Path("w"))
    assert torch.equal(module.state_dict()["module.a.bias"], TENSORS["a.bias"])


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    module = Net()
    apply_weights(module, {name: tensor.half() for name, tensor in TENSORS.items()}, tmp_path)
    assert module.a.weight.dtype == torch.float32
    assert torch.equal(module.a.weight, TENSORS["a.weight"])


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(TENSORS, tmp_path / "w.safetensors")
    state, _ = load_weights(tmp_path / "w.safetensors")
    assert set(state) == set(TENSORS)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((tmp_path / "w.safetensors").read_bytes()[:40])
    with pytest.raises(ModelFormatError, match=r"is not a whole \.safetensors file"):
        load_weights(damaged)


def test_safetensors_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"12345678")
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("safetensors"):
            raise ModuleNotFoundError("No module named 'safetensors'", name="safetensors")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(BackendUnavailableError, match="pip install safetensors"):
        load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_named(zipped: bool, tmp_path: Path) -> None:
    path = save(
        {"state_dict": TENSORS, "x": Payload()}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped
    )
    Payload.calls = 0
    with pytest.raises(UnsafeWeightsError, match=r"_note_the_call.*--unsafe-weights"):
        load_weights(path)
    assert Payload.calls == 0

    state, key = load_weights(path, unsafe=True)
    assert Payload.calls == 1
    assert key == "state_dict"
    assert set(state) == set(TENSORS)


def test_system_calls_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            import os

            return (os.system, (f"touch {tmp_path / 'owned'}",))

    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"a": Evil()}))  # not even through torch.save
    with pytest.raises((UnsafeWeightsError, ModelFormatError)):
        load_weights(path)
    with pytest.raises(UnsafeWeightsError, match="system"):
        load_weights(save({"a": Evil()}, tmp_path / "zip.pth"))
    assert not (tmp_path / "owned").exists()


def test_whole_module_under_the_opt_in(tmp_path: Path) -> None:
    path = save(Net(), tmp_path / "module.pth")
    with pytest.raises(UnsafeWeightsError, match="Net"):
        load_weights(path)
    state, _ = load_weights(path, unsafe=True)
    assert set(state) == {"a.weight", "a.bias"}


def test_class_that_is_not_here(tmp_path: Path) -> None:
    path = save(Net(), tmp_path / "module.pth")
    path.write_bytes(path.read_bytes().replace(b"Net", b"Not"))
    with pytest.raises(ModelFormatError):  # the archive's checksums, or the missing class
        load_weights(path, unsafe=True)
    old = save(Net(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old.write_bytes(old.read_bytes().replace(b"Net\n", b"Gone\n"))
    with pytest.raises(ModelFormatError, match=r"needs code that is not here.*Gone"):
        load_weights(old, unsafe=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"hello, I am a text file", "is not a weights file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"PK\x03\x04 and then nothing of a zip archive", "is damaged or truncated"),
        (b"\x80\x02}q\x00.", "is not a weights file"),
    ],
    ids=["empty", "text", "lfs", "html", "keras", "zip", "plain_pickle"],
)
def test_what_is_no_weights_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=message) as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("part", [0.2, 0.5, 0.99])
def test_truncated(part: float, tmp_path: Path) -> None:
    path = save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ModelFormatError, match="is damaged or truncated"):
        load_weights(path)


@pytest.mark.parametrize("value", [{"epoch": 3}, [1, 2], {"model": {"lr": 0.1}}, torch.zeros(3), {}])
def test_no_tensors_in_it(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="holds no weights"):
        load_weights(save(value, tmp_path / "w.pth"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        load_weights(tmp_path / "none.pth")
    with pytest.raises(ModelNotFoundError, match="is a folder"):
        load_weights(tmp_path)


def test_torchscript_is_sent_elsewhere(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"")
    with pytest.raises(ModelFormatError, match="edgecnn export"):
        load_weights(tmp_path / "m.pt")


def test_what_does_not_fit_is_counted_and_named() -> None:
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    state = {**module.state_dict(), "extra.one": torch.zeros(1), "2.bias": torch.zeros(7)}
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        del state[name]
    with pytest.raises(ModelFormatError) as caught:
        apply_weights(module, state, Path("w.pth"))
    assert "4 missing (0.weight, 0.bias, 1.weight … 1 more)" in str(caught.value)
    assert "1 unexpected (extra.one)" in str(caught.value)
    assert "1 of another shape (2.bias (7,) instead of (2,))" in str(caught.value)
    assert "num_classes" in str(caught.value)


@pytest.mark.parametrize("change", [{"c": torch.zeros(1)}, {"a.bias": torch.zeros(7)}])
def test_each_misfit_alone_is_refused(change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ModelFormatError, match=r"do not fit the module"):
        apply_weights(Net(), {**TENSORS, **change}, Path("w.pth"))


def test_counters_of_batch_norms_may_be_missing() -> None:
    module = nn.BatchNorm2d(4)
    state = {
        name: tensor + 1 for name, tensor in module.state_dict().items() if name != "num_batches_tracked"
    }
    apply_weights(module, state, Path("w.pth"))
    assert torch.equal(module.weight, torch.full((4,), 2.0))
