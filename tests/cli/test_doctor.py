from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from edgecnn import __version__
from edgecnn.cli import main
from edgecnn.doctor import examine

CAN_PREPARE = all(importlib.util.find_spec(name) for name in ("torch", "onnx", "onnxscript", "onnx_ir"))


def test_a_row_for_each_finding_and_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"edgecnn {__version__}\n")
    for finding in examine():
        mark = {"ok": "✓", "missing": "–", "warning": "!"}[finding.state]
        assert f"{mark} {finding.name}" in out
    verdict = f"run models: yes, export and calibrate: {'yes' if CAN_PREPARE else 'no'}"
    assert out.splitlines()[-1] == f"This machine can {verdict}"


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert list(report) == ["edgecnn", "can_run", "can_prepare", "findings"]
    assert (report["edgecnn"], report["can_run"], report["can_prepare"]) == (__version__, True, CAN_PREPARE)
    assert all(
        list(entry) == ["name", "state", "found", "needed_for", "remedy"] for entry in report["findings"]
    )
    assert "This machine can run models: yes" in err  # the table is still there to be read


@pytest.mark.parametrize("hidden", [["cv2"], ["onnxruntime"], ["cv2", "onnxruntime"]])
def test_a_machine_that_cannot_run_models(hidden: list[str]) -> None:
    program = (
        f"import sys\nfor name in {hidden!r}: sys.modules[name] = None\n"
        "from edgecnn.cli import main\nsys.exit(main(['doctor', '--json']))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["can_run"], report["can_prepare"]) == (False, False)
    missing = {entry["name"]: entry["remedy"] for entry in report["findings"] if entry["state"] == "missing"}
    for module, name in (("cv2", "OpenCV"), ("onnxruntime", "ONNX Runtime")):
        assert (name in missing) == (module in hidden)
        if module in hidden:
            assert missing[name] == "pip install 'edgecnn[cpu]'"
    assert "run models: no, export and calibrate: no" in done.stderr
