"""Plans with their sidecars, through `edgecnn.load` and the command line."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_tensorrt import make_plan

import edgecnn
from edgecnn.camera_input import CameraInput
from edgecnn.cli import main
from edgecnn.engine import EngineInfo, EngineTensor, sidecar_path, write_engine_info
from edgecnn.errors import InputError, ModelFormatError, SpecError
from edgecnn.files import sha256_file
from edgecnn.spec import ModelSpec
from tests.colours import write_colour_onnx
from tests.emulation.conftest import Emulation


def add_sidecar(plan: Path, **values: Any) -> EngineInfo:
    """As `edgecnn build` writes it."""
    defaults: dict[str, Any] = {
        "flavour": "tensorrt",
        "library": "10.3.0",
        "system": platform.system(),
        "architecture": platform.machine(),
        "plan_bytes": plan.stat().st_size,
        "plan_sha256": sha256_file(plan),
        "graph_sha256": "0" * 64,
        "inputs": (EngineTensor(name="image", dtype="float32", shape=(1, 3, 8, 8)),),
        "outputs": (),
        "edgecnn": edgecnn.__version__,
        "gpu": "Emulated GPU",
        "compute_capabilities": ("8.7",),
        "precision": "int8",
        "convolutions": {"int8": 0.99, "fp16": 0.01},
        "source": "colours.onnx",
    }
    info = EngineInfo(**(defaults | values))
    write_engine_info(info, plan, force=True)
    return info


@pytest.fixture
def colours(tmp_path: Path, emulation: Emulation) -> tuple[Path, Path]:
    """An ONNX classifier of colours, and a plan of it with its sidecar."""
    import onnx

    model = write_colour_onnx(tmp_path / "colours.onnx")
    content = onnx.load(model)
    spec = ModelSpec.from_metadata({entry.key: entry.value for entry in content.metadata_props})
    shape = [side.dim_value or 1 for side in content.graph.input[0].type.tensor_type.shape.dim]
    name = content.graph.input[0].name
    plan = tmp_path / "colours.engine"
    profiles = [{name: [shape, shape, [4, *shape[1:]]]}]
    plan.write_bytes(make_plan(model.read_bytes(), profiles))
    add_sidecar(plan, spec=spec)
    return model, plan


def frame(color: tuple[int, int, int]) -> Any:
    return np.full((48, 64, 3), color, np.uint8)


def test_load(colours: tuple[Path, Path]) -> None:
    onnx_model, plan = colours
    with edgecnn.load(onnx_model) as expected, edgecnn.load(plan) as model:
        assert (model.backend.name, model.backend_reason) == ("tensorrt", "the one that built the plan")
        assert model.precision == "int8"
        assert model.spec == expected.spec
        for color in ((0, 0, 255), (0, 255, 0), (255, 0, 0)):
            assert model(frame(color)).to_dict() == expected(frame(color)).to_dict()
        results = model.batch([frame((255, 0, 0)), frame((0, 255, 0)), frame((0, 0, 255))])
        assert len(results) == 3
        with pytest.raises(InputError, match="the engine was not built for"):
            model.batch([frame((0, 0, 0))] * 5)


def test_a_plan_for_rtx(colours: tuple[Path, Path]) -> None:
    _, plan = colours
    add_sidecar(plan, flavour="tensorrt_rtx", library="1.7.1.116", gpu=None, compute_capabilities=())
    with pytest.raises(
        ModelFormatError, match=r"another library: got tensorrt_rtx, expected tensorrt\. --backend"
    ):
        edgecnn.load(plan, backend="tensorrt")
    with edgecnn.load(plan, backend="tensorrt_rtx", spec=spec_of(colours[0])) as model:
        assert model.backend.name == "tensorrt_rtx"


def spec_of(model: Path) -> ModelSpec:
    with edgecnn.load(model) as loaded:
        return loaded.spec


def test_a_plan_without_its_sidecar_needs_a_spec(
    colours: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    onnx_model, plan = colours
    sidecar_path(plan).unlink()
    with pytest.raises(SpecError, match=r"does not say how to use it.*colours\.engine\.json"):
        edgecnn.load(plan)
    assert "has no colours.engine.json beside it" in caplog.text
    with edgecnn.load(plan, spec=spec_of(onnx_model)) as model:
        assert model.precision == "as in the file"
        assert model(frame((0, 0, 255))).to_dict()["classes"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"library": "10.13.0"}, r"was built by TensorRT 10\.13\.0: got 10\.3\.0 here"),
        (
            {"compute_capabilities": ("11.0",), "gpu": "Thor"},
            r"got Emulated GPU with compute capability 8\.7",
        ),
        ({"plan_bytes": 10**9}, "is truncated"),
        ({"plan_sha256": "1" * 64}, "is not the plan that its sidecar describes"),
        ({"architecture": "riscv"}, "another kind of machine"),
    ],
)
def test_what_does_not_fit_is_refused_before_tensorrt_sees_it(
    colours: tuple[Path, Path], emulation: Emulation, values: dict[str, Any], words: str
) -> None:
    _, plan = colours
    add_sidecar(plan, **values)
    with pytest.raises(ModelFormatError, match=words + ".*Build it again here: edgecnn build colours.onnx"):
        edgecnn.load(plan)


def test_a_plan_of_another_gpu_of_the_kind_is_a_warning(
    colours: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    _, plan = colours
    add_sidecar(plan, gpu="Orin")
    with edgecnn.load(plan, spec=spec_of(colours[0])):
        assert "was tuned on Orin and runs on Emulated GPU" in caplog.text


def test_threads_cannot_be_honoured(colours: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="threads cannot be honoured"):
        edgecnn.load(colours[1], threads=2)


def test_a_plan_that_takes_the_cameras_bytes(tmp_path: Path, emulation: Emulation, colours: Any) -> None:
    """Raw frames go in as they are, however they lie in memory."""
    from onnx import TensorProto, helper

    from tests.emulation.conftest import network

    spec = replace(spec_of(colours[0]), task="raw", labels=())
    camera = CameraInput(frame_hw=(48, 64), pixel_format="bgr")
    nodes = [
        helper.make_node("Cast", ["frame"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["means"], keepdims=0),
    ]
    model = network(
        {"frame": [1, 48, 64, 3]}, {"means": [1, 3]}, nodes,
        constants={"axes": np.array([1, 2])}, types={"frame": TensorProto.UINT8},
    )  # fmt: skip
    plan = tmp_path / "camera.engine"
    plan.write_bytes(make_plan(model))
    add_sidecar(plan, spec=spec, camera=camera, inputs=())
    with edgecnn.load(plan) as loaded:
        assert loaded.camera == camera
        picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        for given in (picture, picture[::-1], np.asfortranarray(picture)):
            outputs = loaded.infer({"frame": np.ascontiguousarray(given)[None]})
            np.testing.assert_allclose(outputs["means"][0], given.mean((0, 1)), rtol=1e-5)
            loaded(given)


def test_the_command_line(
    colours: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    onnx_model, plan = colours
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, color in enumerate([(0, 0, 255), (0, 255, 0), (255, 0, 0)] * 3):
        cv2.imwrite(str(folder / f"{index}.png"), frame(color))
    assert main(["run", str(plan), "--source", str(folder), "--sink", str(tmp_path / "out.jsonl")]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 9
    capsys.readouterr()
    assert main(["bench", str(plan), "--source", str(folder), "--frames", "20", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["backend"], report["precision"]) == ("tensorrt", "int8")
    assert report["backend_device"].startswith("Emulated GPU")
    assert main(["compare", str(onnx_model), str(plan), "--data", str(folder), "--json"]) == 0
    assert main(["inspect", str(plan), "--json"]) == 0
