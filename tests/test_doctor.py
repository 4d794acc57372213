from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest

from edgecnn import doctor
from edgecnn.doctor import Finding, examine

MEMINFO = "MemTotal:        7802400 kB\nMemFree:          100000 kB\nMemAvailable:    {} kB\n"
L4T = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """The tree of a machine: an empty one."""
    for folder in ("proc", "etc", "dev"):
        (tmp_path / folder).mkdir()
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO.format(5_000_000))
    return tmp_path


@pytest.fixture
def jetson(board: Path) -> Path:
    """What a Jetson Orin Nano shows of itself."""
    (board / "etc" / "nv_tegra_release").write_text(L4T)
    (board / "proc" / "device-tree").mkdir()
    (board / "proc" / "device-tree" / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    return board


def found(root: Path | str = "/") -> dict[str, Finding]:
    findings = examine(root)
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """As if they were not installed: neither for `import` nor in the lists of packages."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    installed = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if name.replace("-", "_") in modules else installed(name)
    )


def check(findings: dict[str, Finding]) -> None:
    """What holds for every finding on every machine."""
    for finding in findings.values():
        assert finding.state in ("ok", "missing", "warning")
        assert finding.found, finding.name
        assert finding.needed_for, finding.name
        assert bool(finding.remedy) == (finding.state != "ok"), finding.name
    report = [finding.to_dict() for finding in findings.values()]
    assert json.loads(json.dumps(report)) == report


def test_this_machine() -> None:
    findings = found()
    check(findings)
    assert findings["machine"].found.startswith(f"Python {sys.version.split()[0]} on Linux")
    assert findings["OpenCV"].state == "ok"
    assert onnxruntime.__version__ in findings["ONNX Runtime"].found
    assert findings["onnx"].state == "ok"


def test_an_empty_machine_is_described_and_not_guessed(tmp_path: Path) -> None:
    findings = found(tmp_path)
    check(findings)
    assert findings["memory"].found == "an unknown amount, free: unknown"
    assert findings["cameras"].found == "no /dev/video*"
    assert findings["NVIDIA driver"].state == "missing"


def test_memory(board: Path) -> None:
    assert found(board)["memory"] == Finding(
        name="memory", state="ok", found="8.0 GB, 5.1 GB free", needed_for="building and calibrating"
    )
    (board / "proc" / "meminfo").write_text(MEMINFO.format(900_000))
    low = found(board)["memory"]
    assert (low.state, low.found) == ("warning", "8.0 GB, 0.9 GB free")
    assert "Close other programs" in low.remedy


def test_disk(monkeypatch: pytest.MonkeyPatch, board: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=999_000_000))
    low = found(board)["disk"]
    assert (low.state, low.found, low.remedy) == ("warning", "1.0 GB free in this folder", "Free some space")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000_000))
    assert found(board)["disk"].state == "ok"


def test_cameras_are_in_order(board: Path) -> None:
    for number in (10, 2, 0):
        (board / "dev" / f"video{number}").touch()
    (board / "dev" / "videodev").touch()
    assert found(board)["cameras"].found == "/dev/video0, /dev/video2, /dev/video10"


def test_a_camera_that_may_not_be_opened(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 1):
        (board / "dev" / f"video{number}").touch()
    (board / "dev" / "video1").chmod(0)

    def access(path: Path, mode: int) -> bool:  # root may do everything
        assert mode == os.R_OK | os.W_OK
        return bool(stat.S_IMODE(path.stat().st_mode))

    monkeypatch.setattr(os, "access", access)
    camera = found(board)["cameras"]
    assert (camera.state, camera.found) == ("warning", "no permission for /dev/video1")
    assert camera.remedy == "sudo usermod -aG video $USER, then log in again"


def test_a_driver(board: Path) -> None:
    (board / "proc" / "driver" / "nvidia").mkdir(parents=True)
    (board / "proc" / "driver" / "nvidia" / "version").write_text("NVRM version: 570.86\nGCC version: 13\n")
    assert found(board)["NVIDIA driver"].found == "NVRM version: 570.86"


# --- a Jetson


def test_a_jetson_says_what_it_is(jetson: Path) -> None:
    findings = found(jetson)
    check(findings)
    assert findings["machine"].found.endswith("NVIDIA Jetson Orin Nano Developer Kit, Jetson Linux 36.4.3")
    assert findings["NVIDIA driver"].found == "of Jetson Linux 36.4.3"


def test_on_a_jetson_no_remedy_installs_an_opencv(jetson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hide JetPack's, and the CSI camera with it."""
    hide(monkeypatch, "cv2", "onnxruntime", "torch", "onnx", "onnxscript", "onnx_ir", "timm", "torchvision")
    findings = found(jetson)
    check(findings)
    assert findings["OpenCV"].remedy == "JetPack's own: python3 -m venv --system-site-packages .venv"
    assert findings["ONNX Runtime"].remedy == "pip install onnxruntime"
    assert findings["torch"].remedy == "pip install torch"
    for finding in findings.values():
        assert "edgecnn[cpu]" not in finding.remedy
        assert "edgecnn[export]" not in finding.remedy
        assert "install opencv" not in finding.remedy.replace("uninstall opencv", "")


def test_on_a_jetson_pips_opencv_is_to_go(jetson: Path) -> None:
    import cv2

    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    remedy = found(jetson)["OpenCV with GSTREAMER"].remedy
    assert remedy.startswith("JetPack's own: ")
    assert remedy.endswith("pip uninstall opencv-python opencv-python-headless")


@pytest.mark.parametrize(
    ("prefix", "words"),
    [("/venv", "not visible in this virtual environment"), (sys.base_prefix, "not installed")],
)
def test_tensorrt_on_a_jetson(jetson: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, words: str) -> None:
    hide(monkeypatch, "tensorrt")
    monkeypatch.setattr(sys, "prefix", prefix)
    tensorrt = found(jetson)["tensorrt"]
    assert (tensorrt.state, tensorrt.found) == ("missing", words)
    assert "--system-site-packages" in tensorrt.remedy


# --- what is not installed, or does not work


def test_elsewhere_the_extras_bring_everything(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(
        monkeypatch,
        "cv2",
        "onnxruntime",
        "torch",
        "onnx",
        "onnxscript",
        "onnx_ir",
        "timm",
        "torchvision",
        "tensorrt",
    )
    findings = found(board)
    check(findings)
    for name in ("OpenCV", "ONNX Runtime"):
        assert (findings[name].found, findings[name].remedy) == (
            "not installed",
            "pip install 'edgecnn[cpu]'",
        )
    for name in ("torch", "onnx", "onnxscript", "onnx-ir"):
        assert (findings[name].found, findings[name].remedy) == (
            "not installed",
            "pip install 'edgecnn[export]'",
        )
    assert findings["timm"].remedy == "pip install timm"
    assert findings["tensorrt"].remedy == "pip install tensorrt"
    assert not any(name.startswith("OpenCV with") for name in findings)


@pytest.mark.parametrize(("module", "name"), [("cv2", "OpenCV"), ("onnxruntime", "ONNX Runtime")])
def test_a_library_that_is_there_and_does_not_load(
    module: str, name: str, board: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / f"{module}.py").write_text(
        'raise ImportError("libGL.so.1: cannot open shared object file")'
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, module, raising=False)
    finding = found(board)[name]
    assert (finding.state, finding.found) == ("missing", "libGL.so.1: cannot open shared object file")
    assert "pip install" in finding.remedy


def test_several_opencvs(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"opencv-python": "4.11", "opencv-python-headless": "4.8"}
    monkeypatch.setattr(doctor, "_version", both.get)
    finding = found(board)["OpenCV packages"]
    assert finding.state == "warning"
    assert finding.found == "opencv-python and opencv-python-headless overwrite each other's files"
    assert finding.remedy.startswith("pip uninstall opencv-python opencv-python-headless, then")
    del both["opencv-python"]
    assert "OpenCV packages" not in found(board)


@pytest.mark.parametrize(("precise", "state"), [(True, "warning"), (False, "ok")])
def test_a_cpu_on_which_int8_is_slow(
    precise: bool, state: str, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.backends.onnxruntime.needs_precise_int8", lambda: precise)
    finding = found(board)["ONNX Runtime"]
    assert finding.state == state
    assert ("no VNNI" in finding.found) == precise


def test_what_opencv_was_built_with_is_asked(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    present: set[int] = {cv2.CAP_GSTREAMER}
    registry = SimpleNamespace(hasBackend=present.__contains__)
    monkeypatch.setattr(cv2, "videoio_registry", registry)
    findings = found(board)
    states = {name: findings[f"OpenCV with {name}"].state for name in ("FFMPEG", "GSTREAMER", "V4L2")}
    assert states == {"FFMPEG": "missing", "GSTREAMER": "ok", "V4L2": "missing"}
    check(findings)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom edgecnn.doctor import examine\nexamine()\n"
        "print({'torch', 'onnx', 'timm', 'torchvision', 'tensorrt', 'tensorrt_rtx'} & sys.modules.keys())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
