"""Models that are built when they are loaded."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgecnn
from edgecnn.build_once import BuildRecipe, choose_library, make_recipe
from edgecnn.calibration import calibrate
from edgecnn.engine import read_engine_info
from edgecnn.engine_cache import EngineCache
from edgecnn.errors import BackendUnavailableError, BuildError, ModelFormatError, ModelNotFoundError
from edgecnn.files import sha256_file
from edgecnn.gpu import Gpu, read_gpu
from tests.networks import Net, frames, save, spec

ORIN = Gpu(name="Orin", compute_capability="8.7", cuda="12.6", memory_bytes=8 << 30, integrated=True)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = Net()
    scores = net.add("Gemm", net.pooled(net.relu(net.conv("image", 3, 8))), net.weights(8, 5), name="logits")
    folder = tmp_path_factory.mktemp("model")
    model = save(net.model(scores, own_spec=spec(task="classification")), folder / "model.onnx")
    np.save(folder / "frames.npy", np.stack(frames()))
    return calibrate(model, folder / "frames.npy", folder / "calibrated.onnx").path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    return EngineCache()


def built(caplog: pytest.LogCaptureFixture) -> int:
    """How often something was said to be built, so far."""
    return sum("building it" in record.message for record in caplog.records)


def test_built_once_for_onnx_runtime(
    calibrated: Path, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    with edgecnn.load(calibrated, precision="int8", backend="onnxruntime") as model:
        assert (model.precision, model.name) == ("int8", "calibrated.onnx")
        assert model.backend_reason == "asked for; built in int8"
        first = model.infer({"image": np.ones((1, 3, 8, 8), np.float32)})["logits"]
    assert built(caplog) == 1
    with edgecnn.load(calibrated, precision="int8", backend="onnxruntime") as model:
        again = model.infer({"image": np.ones((1, 3, 8, 8), np.float32)})["logits"]
        assert np.array_equal(again, first)
    assert built(caplog) == 1
    with edgecnn.load(calibrated, precision="fp16") as model:
        assert model.precision == "fp16"
    assert built(caplog) == 2
    assert len(cache.entries()) == 2


def test_a_changed_model_is_built_again(
    calibrated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proto = onnx.load(calibrated)
    first = tmp_path / "first.onnx"
    first.write_bytes(calibrated.read_bytes())
    second = tmp_path / "second.onnx"
    proto.doc_string = "another"
    second.write_bytes(proto.SerializeToString())
    for path in (first, second, calibrated):  # the name does not matter, the bytes do
        edgecnn.load(path, precision="int8").close()
    assert built(caplog) == 2


def test_nothing_is_exported_when_it_is_there(calibrated: Path) -> None:
    edgecnn.load(calibrated, precision="int8", backend="onnxruntime").close()
    code = f"""
import sys
sys.modules["onnx"] = sys.modules["onnx_ir"] = None  # a machine without the packages of export
import edgecnn
with edgecnn.load({str(calibrated)!r}, precision="int8", backend="onnxruntime") as model:
    assert model.precision == "int8"
print([name for name in sys.modules if name.startswith(("edgecnn.export", "torch"))])
try:
    edgecnn.load({str(calibrated)!r}, precision="fp16", backend="onnxruntime")
except edgecnn.EdgeCNNError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "[]"
    assert second.startswith("BackendUnavailableError this step needs the export packages")
    assert "pip install 'edgecnn[export]'" in second


def test_several_processes_build_it_once(calibrated: Path, cache: EngineCache) -> None:
    code = f"""
import edgecnn
with edgecnn.load({str(calibrated)!r}, precision="int8", backend="onnxruntime") as model:
    print(model.precision)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate() for process in processes]
    assert [out.strip() for out, _ in said] == ["int8"] * 3
    assert sum("building it" in err for _, err in said) == 1
    assert len(cache.entries()) == 1


def test_what_the_library_refuses_is_built_again(
    calibrated: Path, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe(calibrated, library="onnxruntime", precision="int8")
    cache.fetch(recipe.key, "model.onnx", lambda output: output.write_bytes(b"whole, and no model"))
    with edgecnn.load(calibrated, precision="int8", backend="onnxruntime") as model:
        assert model.precision == "int8"
    assert built(caplog) == 1


def recipe(model: Path, **changes: Any) -> BuildRecipe:
    given: dict[str, Any] = {"library": "onnxruntime", "precision": "int8", "gpu": ORIN, **changes}
    return make_recipe(model, **given)


def test_the_key_holds_all_that_matters(
    calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgecnn.build_once as module

    monkeypatch.setattr(module, "_version_of", lambda library: "10.3.0")  # TensorRT itself is not here
    base = recipe(calibrated, library="tensorrt").key
    others = [
        recipe(calibrated, library="tensorrt", precision="fp16"),
        recipe(calibrated, library="tensorrt_rtx"),
        recipe(calibrated, library="tensorrt", options={"dla_core": 0}),
        recipe(calibrated, library="tensorrt", spec=spec(task="raw")),
        recipe(calibrated, library="tensorrt", gpu=replace(ORIN, name="Orin Nano")),
        recipe(calibrated, library="tensorrt", gpu=replace(ORIN, compute_capability="8.6")),
        recipe(calibrated, library="tensorrt", gpu=replace(ORIN, cuda="12.8")),
    ]
    monkeypatch.setattr(module, "_version_of", lambda library: "10.3.1")
    others.append(recipe(calibrated, library="tensorrt"))
    monkeypatch.setattr(module, "_code_sha256", lambda: "another lowering")
    others.append(recipe(calibrated, library="tensorrt"))
    keys = [base, *(other.key for other in others)]
    assert len({repr(sorted(key.items())) for key in keys}) == len(keys)
    # how much memory was left for the GPU at start-up changes nothing
    monkeypatch.undo()
    assert recipe(calibrated).key == recipe(calibrated, gpu=replace(ORIN, memory_bytes=1)).key


def test_weights_in_another_file_belong_to_the_key(calibrated: Path, tmp_path: Path) -> None:
    model, name = tmp_path / "model.onnx", "a" * 150 + ".bin"
    onnx.save(onnx.load(calibrated), model, save_as_external_data=True, location=name, size_threshold=0)
    before = recipe(model).key
    assert before["weights"] == {name: sha256_file(tmp_path / name)}
    data = bytearray((tmp_path / name).read_bytes())
    data[0] ^= 1
    (tmp_path / name).write_bytes(data)
    assert recipe(model).key != before


def test_a_real_plan_comes_out_of_the_cache(
    calibrated: Path, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx, on x86-64")
    wanted = recipe(calibrated, library="tensorrt_rtx", options={"compute_capabilities": ("8.6",)})
    plan = wanted.fetch(cache)
    info = read_engine_info(plan)
    assert (info.precision, info.compute_capabilities) == ("int8", ("8.6",))
    assert dict(info.convolutions) == {"int8": 1.0}
    assert (
        recipe(calibrated, library="tensorrt_rtx", options={"compute_capabilities": ["8.6"]}).fetch() == plan
    )
    assert built(caplog) == 1
    for_another = recipe(calibrated, library="tensorrt_rtx", options={"compute_capabilities": ("12.0",)})
    assert for_another.fetch() != plan
    assert built(caplog) == 2


@pytest.mark.skipif(read_gpu() is not None, reason="a GPU is here")
def test_without_a_gpu(calibrated: Path, cache: EngineCache) -> None:
    for backend in ("tensorrt", "tensorrt_rtx"):
        with pytest.raises(BackendUnavailableError, match="needs an NVIDIA GPU: got none here"):
            edgecnn.load(calibrated, backend=backend, precision="int8")
    assert cache.entries() == []  # nobody waits for what could not run
    assert choose_library("auto") == ("onnxruntime", None)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"precision": "int4"}, BuildError, "unknown precision: got int4"),
        ({"precision": "auto"}, BuildError, "edgecnn build --precision auto"),
        ({"options": {"dla_core": 0}}, BuildError, "expected a precision with them"),
        ({"precision": "int8", "options": {"dla_core": 0}}, BuildError, "options cannot be honoured"),
        ({"precision": "int8", "backend": "tpu"}, BackendUnavailableError, "unknown backend: got tpu"),
        ({"backend": "tensorrt"}, BuildError, 'precision="fp16"'),
    ],
)
def test_wrong_use(calibrated: Path, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        edgecnn.load(calibrated, **arguments)


def test_what_cannot_be_built(calibrated: Path, tmp_path: Path, cache: EngineCache) -> None:
    with pytest.raises(ModelNotFoundError):
        edgecnn.load(tmp_path / "none.onnx", precision="int8")
    (tmp_path / "model.engine").write_bytes(b"plan")
    with pytest.raises(BuildError, match="is built already"):
        edgecnn.load(tmp_path / "model.engine", precision="int8")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelFormatError):
        edgecnn.load(tmp_path / "broken.onnx", precision="int8")
    with pytest.raises(BuildError, match="INT8 needs a calibrated model"):
        edgecnn.load(calibrated.with_name("model.onnx"), precision="int8")
    assert cache.entries() == []


def test_it_says_so_where_nobody_set_up_logging(calibrated: Path, tmp_path: Path) -> None:
    code = f"import edgecnn; edgecnn.load({str(calibrated)!r}, precision='int8', backend='onnxruntime')"
    environment = {**os.environ, "EDGECNN_CACHE": str(tmp_path / "other")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "building it in int8 for onnxruntime, once" in done.stderr
    assert logging.getLogger("edgecnn").handlers == []


def test_commands(
    calibrated: Path, cache: EngineCache, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import json

    from edgecnn.cli import main

    arguments = ["bench", str(calibrated), "--precision", "int8", "--frames", "2", "--warmup", "0", "--json"]
    assert main([*arguments, "--size", "8x8"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["precision"] == "int8"
    assert main(["cache", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["path"] == str(cache.folder)
    (entry,) = report["entries"]
    assert entry["key"]["model"] == sha256_file(calibrated)
    assert report["size_bytes"] == entry["size_bytes"] > 0
    assert main(["cache", "--clear"]) == 0
    assert "MB removed" in capsys.readouterr().out
    assert cache.entries() == []
