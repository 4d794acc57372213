"""The sidecar, and what it keeps from TensorRT."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from edgecnn.camera_input import CameraInput
from edgecnn.cli.build import command as build
from edgecnn.engine import (
    EngineInfo,
    EngineTensor,
    Here,
    check_compatible,
    describe_here,
    read_engine_info,
    sidecar_path,
    write_engine_info,
)
from edgecnn.errors import ModelFormatError, ModelNotFoundError, OutputExistsError, SpecError
from edgecnn.files import sha256_file
from edgecnn.spec import ModelSpec, image_spec

PLAN = b"a plan, as far as anybody here can tell"

INFO = EngineInfo(
    flavour="tensorrt",
    library="10.3.0",
    system="Linux",
    architecture="aarch64",
    plan_bytes=len(PLAN),
    plan_sha256="9" * 64,
    graph_sha256="a" * 64,
    inputs=(EngineTensor(name="image", dtype="float16", shape=(None, 3, 224, 224)),),
    outputs=(EngineTensor(name="logits", dtype="float32", shape=(None, 1000)),),
    edgecnn="0.1.0",
    cuda="12.6",
    gpu="Orin",
    compute_capabilities=("8.7",),
    profiles=({"image": ((1, 3, 224, 224), (2, 3, 224, 224), (4, 3, 224, 224))},),
    precision="int8",
    convolutions={"int8": 0.99, "fp16": 0.01},
    source="my model.onnx",
    source_sha256="b" * 64,
    table_sha256="c" * 64,
    build_s=12.5,
    accuracy={"images": 30, "outputs": {"logits": {"sqnr_db": 19.2}}},
    spec=ModelSpec(task="classification", image=image_spec("imagenet"), labels=("cat", "dog")),
)
SHAPE = "--shape image=1x3x224x224,2x3x224x224,4x3x224x224"
HERE = Here(
    flavour="tensorrt",
    library="10.3.0",
    system="Linux",
    architecture="aarch64",
    compute_capability="8.7",
    gpu="Orin",
    plan_bytes=len(PLAN),
    plan_sha256="9" * 64,
)
RTX = replace(INFO, flavour="tensorrt_rtx", library="1.7.1", gpu=None, compute_capabilities=())
RTX_HERE = replace(HERE, flavour="tensorrt_rtx", library="1.7.1")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.plan"
    path.write_bytes(PLAN)
    return path


def test_round_trip(plan: Path) -> None:
    sidecar = write_engine_info(INFO, plan)
    assert sidecar == plan.with_name("model.engine.json")
    assert read_engine_info(plan) == INFO
    assert plan.read_bytes() == PLAN
    assert json.loads(sidecar.read_text())["convolutions"] == {"int8": 0.99, "fp16": 0.01}


def test_round_trip_of_what_is_not_known(plan: Path) -> None:
    required = {
        item.name: getattr(INFO, item.name) for item in fields(INFO) if item.name in json.loads(_least())
    }
    info = EngineInfo(**required)
    write_engine_info(info, plan)
    assert read_engine_info(plan) == info
    assert info.spec is None


def _least() -> str:
    names = "flavour library system architecture plan_bytes plan_sha256 graph_sha256 inputs outputs edgecnn"
    return json.dumps(dict.fromkeys(names.split()))


@pytest.mark.parametrize(
    ("name", "sidecar"),
    [
        ("model.plan", "model.engine.json"),
        ("model.engine", "model.engine.json"),
        ("model.int8.trt", "model.int8.engine.json"),
        ("model.v2", "model.v2.engine.json"),
        ("model", "model.engine.json"),
    ],
)
def test_the_sidecars_name(name: str, sidecar: str) -> None:
    assert sidecar_path(Path("folder", name)) == Path("folder", sidecar)


def test_nothing_is_overwritten(plan: Path) -> None:
    write_engine_info(INFO, plan)
    with pytest.raises(OutputExistsError):
        write_engine_info(INFO, plan)
    write_engine_info(RTX, plan, force=True)
    assert read_engine_info(plan).flavour == "tensorrt_rtx"


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        read_engine_info(tmp_path / "model.plan")
    with pytest.raises(ModelNotFoundError, match="is a folder"):
        read_engine_info(tmp_path)


def test_no_sidecar(plan: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"has no model\.engine\.json beside it.*Copy it"):
        read_engine_info(plan)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b'{"version": 1}', b"null"])
def test_a_damaged_sidecar(plan: Path, content: bytes) -> None:
    sidecar_path(plan).write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"model\.engine\.json is damaged"):
        read_engine_info(plan)


def changed(plan: Path, **values: Any) -> None:
    raw = json.loads(INFO.to_json())
    sidecar_path(plan).write_text(json.dumps(raw | values))


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_a_sidecar_of_another_version(plan: Path, version: Any) -> None:
    changed(plan, version=version)
    with pytest.raises(ModelFormatError, match=r"has another version: got .* expected 1"):
        read_engine_info(plan)


@pytest.mark.parametrize(
    "values",
    [{"plan_bytes": "many"}, {"flavour": "cudnn"}, {"inputs": [{"name": "x"}]}, {"profiles": [{"x": [1]}]}],
)
def test_a_sidecar_that_says_nonsense(plan: Path, values: dict[str, Any]) -> None:
    changed(plan, **values)
    with pytest.raises(ModelFormatError, match="is damaged"):
        read_engine_info(plan)


def test_a_spec_that_says_nonsense(plan: Path) -> None:
    changed(plan, spec={"task": "classification", "image": {"size_hw": [0, 0]}})
    with pytest.raises(SpecError):
        read_engine_info(plan)


def test_what_a_newer_minor_version_adds_is_ignored(plan: Path) -> None:
    changed(plan, something_new=1)
    assert read_engine_info(plan) == INFO


def test_it_fits() -> None:
    assert check_compatible(INFO, HERE, plan="m.plan") == ()
    assert check_compatible(RTX, RTX_HERE, plan="m.plan") == ()


AMPERE_PLUS = replace(INFO, hardware_compatibility="ampere_plus")
COMPATIBLE = replace(INFO, version_compatible=True)


@pytest.mark.parametrize(
    ("info", "here", "words"),
    [
        (INFO, replace(HERE, plan_bytes=20, plan_sha256="0" * 64), "is truncated: got 20 bytes, expected 39"),
        (INFO, replace(HERE, plan_sha256="0" * 64), "is not the plan that its sidecar.*0000….*9999…"),
        (INFO, replace(HERE, plan_bytes=40, plan_sha256="0" * 64), "is not the plan that its sidecar"),
        (INFO, RTX_HERE, r"another library: got TensorRT for RTX here, expected TensorRT 10\.3\.0"),
        (RTX, HERE, r"another library: got TensorRT here, expected TensorRT for RTX 1\.7\.1"),
        (
            INFO,
            replace(HERE, library="10.16.1"),
            r"was built by TensorRT 10\.3\.0: got 10\.16\.1 here, expected exactly 10\.3\.0",
        ),
        (INFO, replace(HERE, library="10.3.0.1"), r"expected exactly 10\.3\.0"),
        (COMPATIBLE, replace(HERE, library="10.2.9"), r"got 10\.2\.9 here, expected 10\.3\.0 or later"),
        (COMPATIBLE, replace(HERE, library="9.12.0"), r"expected 10\.3\.0 or later"),
        (
            INFO,
            replace(HERE, architecture="x86_64"),
            "another kind of machine: got Linux on x86_64 here, expected Linux on aarch64",
        ),
        (INFO, replace(HERE, system="Windows"), "another kind of machine: got Windows on aarch64"),
        (RTX, replace(RTX_HERE, architecture="x86_64"), "another kind of machine"),
        (INFO, replace(HERE, compute_capability=None, gpu=None), "needs an NVIDIA GPU: got none here"),
        (
            INFO,
            replace(HERE, compute_capability="11.0", gpu="Thor"),
            r"got Thor with compute capability 11\.0 here, expected Orin, compute capability 8\.7",
        ),
        (
            replace(RTX, compute_capabilities=("8.6", "12.0")),
            replace(RTX_HERE, compute_capability="8.9"),
            r"got Orin with compute capability 8\.9 here, expected compute capability 8\.6 or 12\.0",
        ),
        (RTX, replace(RTX_HERE, compute_capability="7.5"), r"expected compute capability 8\.0 or later"),
        (AMPERE_PLUS, replace(HERE, compute_capability="7.2"), r"expected compute capability 8\.0 or later"),
        (replace(INFO, compute_capabilities=()), HERE, "was built for another GPU"),
    ],
)
def test_it_does_not_fit(info: EngineInfo, here: Here, words: str) -> None:
    with pytest.raises(ModelFormatError, match=words) as caught:
        check_compatible(info, here, plan="my plan")
    target = info.flavour.replace("_", "-")
    command = f"edgecnn build 'my model.onnx' --target {target} --precision int8 {SHAPE} "
    assert f"Build it again here: {command}" in str(caught.value)
    assert str(caught.value).endswith("-o 'my plan' --force")


@pytest.mark.parametrize(
    ("info", "here"),
    [
        (COMPATIBLE, replace(HERE, library="10.16.1")),
        (COMPATIBLE, replace(HERE, library="11.0.0")),
        (AMPERE_PLUS, replace(HERE, compute_capability="12.0", gpu="RTX 5090")),
        (RTX, replace(RTX_HERE, compute_capability="12.1")),
        (RTX, replace(RTX_HERE, system="Windows")),
        (replace(RTX, compute_capabilities=("8.6", "12.0")), replace(RTX_HERE, compute_capability="12.0")),
    ],
)
def test_it_fits_although_something_differs(info: EngineInfo, here: Here) -> None:
    assert check_compatible(info, here, plan="p") == ()


def test_another_gpu_of_the_same_kind_is_a_warning() -> None:
    (warning,) = check_compatible(INFO, replace(HERE, gpu="Orin Nano"), plan="p")
    assert "tuned on Orin and runs on Orin Nano" in warning


def test_this_machine(plan: Path) -> None:
    here = describe_here(plan, flavour="tensorrt", library="10.3.0")
    assert (here.plan_bytes, here.plan_sha256) == (len(PLAN), sha256_file(plan))
    assert (here.flavour, here.library) == ("tensorrt", "10.3.0")
    assert here.system
    assert here.architecture


@pytest.mark.parametrize("content", [b"", PLAN[:-1], PLAN + b"x", b"\x00" * len(PLAN)])
def test_a_file_that_is_no_longer_the_plan(plan: Path, content: bytes) -> None:
    here = describe_here(plan, flavour="tensorrt", library="10.3.0")
    info = replace(
        INFO,
        plan_sha256=here.plan_sha256,
        system=here.system,
        architecture=here.architecture,
        compute_capabilities=("8.7",),
    )
    plan.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"is truncated|is not the plan"):
        check_compatible(info, describe_here(plan, flavour="tensorrt", library="10.3.0"), plan=plan)


def test_a_rebuild_of_a_foreign_build() -> None:
    info = replace(INFO, source=None, precision=None, profiles=({"image": ((1, 3, 224, 224),) * 3},))
    assert info.rebuild_command("p") == "edgecnn build MODEL.onnx --target tensorrt -o p --force"


def test_a_rebuild_asks_for_all_that_the_build_asked_for() -> None:
    info = replace(
        INFO,
        inputs=(EngineTensor(name="image", dtype="uint8", shape=(None, 1620, 1920, 1)),),
        profiles=({"image": ((1, 1620, 1920, 1), (2, 1620, 1920, 1), (4, 1620, 1920, 1))},),
        camera=CameraInput(frame_hw=(1080, 1920), pixel_format="nv12", matrix="bt709"),
        version_compatible=True,
        hardware_compatibility="ampere_plus",
        dla_core=0,
    )
    words = shlex.split(info.rebuild_command("p.engine"))
    given = build.make_context("build", words[2:], resilient_parsing=True).params
    assert given["dla"] == 0
    assert given["hardware_compatible"] == "ampere-plus"
    assert given["version_compatible"] is True
    assert given["shapes"] == (("image", ((1, 1620, 1920, 1), (2, 1620, 1920, 1), (4, 1620, 1920, 1))),)
    assert (given["camera"], given["pixel_format"], given["yuv_matrix"]) == ((1080, 1920), "nv12", "bt709")
