from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecnn import __version__
from edgecnn.device import DeviceState, read_device, read_state, was_throttled

UNKNOWN = DeviceState(frequency_mhz=None, temperature_c=None, throttle_count=None, cooling_level=None)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


# What a Jetson Orin Nano's files look like, from NVIDIA's documentation; none was at hand.
JETSON = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd42\n",
    "proc/meminfo": "MemTotal:        7802844 kB\nMemFree:  1 kB\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nx\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    "var/lib/nvpmodel/status": "pmode:0002",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1510400\n",
    "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "1728000\n",
    "sys/class/thermal/thermal_zone0/temp": "51562\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",
    "sys/class/thermal/thermal_zone2/temp": "49000\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
}


def test_a_jetson(tmp_path: Path) -> None:
    device = read_device(tree(tmp_path, JETSON))
    assert device.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert device.cpu == "Cortex-A78AE"
    assert (device.power_mode, device.l4t, device.os) == ("MAXN_SUPER", "36.4.3", "Ubuntu 22.04.5 LTS")
    assert (device.governor, device.max_frequency_mhz, device.memory_mb) == ("schedutil", 1728.0, 7990)
    assert read_state(tmp_path) == DeviceState(
        frequency_mhz=1510.4, temperature_c=51.562, throttle_count=None, cooling_level=0
    )


def test_a_jetsons_mode_without_a_name(tmp_path: Path) -> None:
    assert read_device(tree(tmp_path, {"var/lib/nvpmodel/status": "pmode:0007"})).power_mode == "7"


def test_a_pc(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Some CPU\ncpu MHz\t\t: 1200.500\n\ncpu MHz\t\t: 3100.25\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
        },
    )
    assert read_device(root).cpu == "Some CPU"
    assert read_state(root) == replace(UNKNOWN, frequency_mhz=3100.25, throttle_count=7)


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    device = read_device(tmp_path)
    assert (device.board, device.cpu, device.governor, device.power_mode, device.memory_mb, device.l4t) == (
        None,
    ) * 6
    assert read_state(tmp_path) == UNKNOWN


def test_sensors_that_are_off(tmp_path: Path) -> None:
    assert read_state(tree(tmp_path, {"sys/class/thermal/thermal_zone1/temp": "-256000\n"})) == UNKNOWN


@pytest.mark.parametrize(
    ("before", "after", "throttled"),
    [
        ({}, {}, None),
        ({"throttle_count": 3}, {"throttle_count": 3}, False),
        ({"throttle_count": 3}, {"throttle_count": 4}, True),
        ({"cooling_level": 0}, {"cooling_level": 0}, False),
        ({"cooling_level": 0}, {"cooling_level": 2}, True),
        ({"throttle_count": 3, "cooling_level": 0}, {"throttle_count": 3, "cooling_level": 1}, True),
    ],
)
def test_throttling(before: dict[str, int], after: dict[str, int], throttled: bool | None) -> None:
    assert was_throttled(replace(UNKNOWN, **before), replace(UNKNOWN, **after)) is throttled


def test_this_machine() -> None:
    device = read_device()
    assert device.cores == len(os.sched_getaffinity(0))
    assert device.architecture == os.uname().machine
    assert device.versions["edgecnn"] == __version__
    assert device.versions["numpy"] == np.__version__
    json.dumps(device.to_dict(), allow_nan=False)
