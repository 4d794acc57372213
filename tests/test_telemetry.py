"""Telemetry on trees of files that are built here, as the kernel's documentation and owners of boards
describe them: no Jetson was at hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecnn.telemetry import Telemetry

INA = "sys/class/hwmon/hwmon1"
THERMAL = "sys/class/thermal"


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


ORIN_NANO: dict[str, object] = {
    f"{INA}/name": "ina3221",
    f"{INA}/in1_label": "VDD_IN", f"{INA}/in1_input": 5000, f"{INA}/curr1_input": 1200,
    f"{INA}/in2_label": "VDD_CPU_GPU_CV", f"{INA}/in2_input": 4992, f"{INA}/curr2_input": 250,
    f"{INA}/in3_label": "VDD_SOC", f"{INA}/in3_input": 4984, f"{INA}/curr3_input": -8,
    f"{INA}/in7_label": "sum of shunt voltages", f"{INA}/curr4_input": 1442,
    "sys/class/hwmon/hwmon0/name": "pwmfan",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": 0, "sys/class/hwmon/hwmon3/oc1_throt_en": 1,
    "sys/class/hwmon/hwmon3/oc3_event_cnt": 15,
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal", f"{THERMAL}/thermal_zone0/temp": 51562,
    f"{THERMAL}/thermal_zone1/type": "gpu-thermal", f"{THERMAL}/thermal_zone1/temp": -256000,
    f"{THERMAL}/thermal_zone8/type": "tj-thermal", f"{THERMAL}/thermal_zone8/temp": 52000,
    f"{THERMAL}/cooling_device0/type": "pwm-fan", f"{THERMAL}/cooling_device0/cur_state": 2,
    f"{THERMAL}/cooling_device1/type": "cpufreq-cpu0", f"{THERMAL}/cooling_device1/cur_state": 0,
    f"{THERMAL}/cooling_device2/type": "devfreq-17000000.gpu", f"{THERMAL}/cooling_device2/cur_state": 0,
    "sys/class/devfreq/17000000.gpu/cur_freq": 918000000,
    "sys/class/devfreq/17000000.gpu/device/load": 995,
    "sys/class/devfreq/15340000.vic/cur_freq": 115200000,
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 729600,
    "sys/devices/system/cpu/cpu5/cpufreq/scaling_cur_freq": 1510400,
    "proc/meminfo": "MemTotal:        7802844 kB\nMemFree:  1 kB\nMemAvailable:    5802844 kB",
    "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >",
    "var/lib/nvpmodel/status": "pmode:0002",
}  # fmt: skip


def test_an_orin(tmp_path: Path) -> None:
    telemetry = Telemetry(tree(tmp_path, ORIN_NANO))
    reading = telemetry.read()
    assert reading.power_w == {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 1.248, "VDD_SOC": -8 * 4984 / 1e6}
    assert reading.board_power_w == 6.0
    assert reading.temperatures_c == {"cpu-thermal": 51.562, "tj-thermal": 52.0}  # the GPU's is off
    assert reading.temperature_c == 52.0
    assert (reading.gpu_load, reading.gpu_mhz, reading.cpu_mhz) == (0.995, 918.0, 1510.4)
    assert (reading.memory_total_mb, reading.memory_used_mb) == (7990, 2048)
    assert (reading.cooling_level, reading.throttled) == (0, False)
    assert reading.overcurrent_counts == {"oc1": 0, "oc3": 15}
    assert reading.power_mode == "MAXN_SUPER"
    assert reading.cpu_load is None  # there is no reading before

    tree(tmp_path, {"proc/stat": "cpu  130 0 130 840 0 0 0 0 0 0"})
    assert telemetry.read().cpu_load == 0.6


@pytest.mark.parametrize(
    ("changed", "throttled"),
    [
        ({}, False),
        ({f"{THERMAL}/cooling_device0/cur_state": 4}, False),  # a fan does not slow anything down
        ({f"{THERMAL}/cooling_device2/cur_state": 1}, True),
        ({"sys/class/hwmon/hwmon3/oc3_event_cnt": 16}, True),
    ],
)
def test_throttling_on_a_jetson(tmp_path: Path, changed: dict[str, object], throttled: bool) -> None:
    telemetry = Telemetry(tree(tmp_path, ORIN_NANO))
    assert telemetry.read().throttled is False  # the 15 events were before
    tree(tmp_path, changed)
    assert telemetry.read().throttled is throttled


def test_counters_are_compared_with_the_reading_before(tmp_path: Path) -> None:
    telemetry = Telemetry(tree(tmp_path, ORIN_NANO))
    telemetry.read()
    tree(tmp_path, {"sys/class/hwmon/hwmon3/oc1_event_cnt": 2})
    assert [telemetry.read().throttled for _ in range(2)] == [True, False]


def test_an_agx_orin_has_two_monitors_and_no_rail_for_the_board(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            f"{INA}/name": "ina3221",
            f"{INA}/in1_label": "VDD_GPU_SOC", f"{INA}/in1_input": 20000, f"{INA}/curr1_input": 300,
            f"{INA}/in3_label": "VIN_SYS_5V0", f"{INA}/in3_input": 5000, f"{INA}/curr3_input": 900,
            "sys/class/hwmon/hwmon10/name": "ina3221",
            "sys/class/hwmon/hwmon10/in1_label": "NC", "sys/class/hwmon/hwmon10/in1_input": 8,
            "sys/class/hwmon/hwmon10/curr1_input": 0,
            "sys/class/hwmon/hwmon10/in2_label": "VDDQ_VDD2_1V8AO",
            "sys/class/hwmon/hwmon10/in2_input": 20000, "sys/class/hwmon/hwmon10/curr2_input": 30,
        },
    )  # fmt: skip
    reading = Telemetry(root).read()
    assert reading.power_w == {"VDD_GPU_SOC": 6.0, "VIN_SYS_5V0": 4.5, "VDDQ_VDD2_1V8AO": 0.6}
    assert reading.board_power_w is None


def test_a_thor(tmp_path: Path) -> None:
    """Its GPU says its clock and not its load, and a chip of another kind measures one more rail."""
    root = tree(
        tmp_path,
        {
            f"{INA}/name": "ina238", f"{INA}/in1_input": 20000, f"{INA}/curr1_input": 1150,
            f"{INA}/power1_input": 23000000,
            "sys/class/devfreq/gpu-gpc-0/cur_freq": 1575000000,
            "sys/class/devfreq/gpu-nvd-0/cur_freq": 1692000000,
        },
    )  # fmt: skip
    reading = Telemetry(root).read()
    assert reading.power_w == {"ina238": 23.0}
    assert (reading.gpu_load, reading.gpu_mhz) == (None, 1692.0)


@pytest.mark.parametrize("path", ["sys/devices/platform/gpu.0/load", "sys/devices/gpu.0/load"])
def test_where_else_a_gpu_says_its_load(tmp_path: Path, path: str) -> None:
    telemetry = Telemetry(tree(tmp_path, {path: 250}))
    assert telemetry.read().gpu_load == 0.25
    (tmp_path / path).unlink()  # a driver that is unloaded
    assert telemetry.read().gpu_load is None


def test_a_pc(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "sys/class/hwmon/hwmon2/name": "coretemp",
            "sys/class/hwmon/hwmon2/temp1_label": "Package id 0", "sys/class/hwmon/hwmon2/temp1_input": 61000,
            "sys/class/hwmon/hwmon3/name": "nvme", "sys/class/hwmon/hwmon3/temp1_input": 40000,
            f"{THERMAL}/thermal_zone0/type": "acpitz", f"{THERMAL}/thermal_zone0/temp": 27800,
            f"{THERMAL}/thermal_zone1/type": "acpitz", f"{THERMAL}/thermal_zone1/temp": 29800,
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 3,
            "proc/cpuinfo": "cpu MHz\t\t: 1200.500\n\ncpu MHz\t\t: 3100.25",
        },
    )  # fmt: skip
    telemetry = Telemetry(root)
    reading = telemetry.read()
    assert reading.temperatures_c == {"acpitz": 27.8, "acpitz-2": 29.8, "Package id 0": 61.0}
    assert (reading.cpu_mhz, reading.throttle_count, reading.throttled) == (3100.25, 3, False)
    tree(tmp_path, {"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 4})
    assert telemetry.read().throttled is True


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    assert Telemetry(tmp_path).read().to_dict() == {}


def test_files_that_make_no_sense(tmp_path: Path) -> None:
    nonsense = {name: "nonsense" for name in ORIN_NANO if not name.endswith(("type", "label", "/name"))}
    reading = Telemetry(tree(tmp_path, {**ORIN_NANO, **nonsense})).read()
    assert reading.to_dict() == {}


def test_this_machine() -> None:
    telemetry = Telemetry()
    telemetry.read()
    reading = telemetry.read()
    json.dumps(reading.to_dict(), allow_nan=False)
    assert reading.memory_total_mb is not None
    assert reading.memory_used_mb is not None
    assert 0 < reading.memory_used_mb < reading.memory_total_mb
    assert reading.cpu_load is None or 0 <= reading.cpu_load <= 1
