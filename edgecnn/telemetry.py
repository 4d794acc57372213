"""Power, heat, clocks and load of the machine, as it works: what a drop in the frame rate is explained by.

    telemetry = Telemetry()
    reading = telemetry.read()  # some small files: no program is started, no rights are needed
    print(reading.power_w, reading.temperatures_c, reading.throttled)

All of it comes from /proc and /sys. Where the files lie is found once; a reading only reads them. What a
machine does not say is None or missing, never a guess. A Jetson says, of what a PC does not:

    power        hwmon of its INA3221 monitors: inN_label, inN_input (mV) · currN_input (mA); of an INA238:
                 power1_input (µW)
    GPU          /sys/class/devfreq/*gpu*: cur_freq (Hz), device/load (per mille; Thor's has none)
    over-current hwmon soctherm_oc: ocN_event_cnt
    power mode   /var/lib/nvpmodel/status, with the names in /etc/nvpmodel.conf
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

__all__ = ["Reading", "Telemetry", "named_apart", "power_mode", "read_text"]

_Value = TypeVar("_Value")

_BOARD_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")  # what the whole board or module takes, by NVIDIA's names
_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b")
_SLOWED_FOR_HEAT = re.compile(r"cpu|gpu|processor|devfreq")  # among cooling devices; the others are fans
_CPU_SENSORS = ("coretemp", "k10temp")  # hwmon of PCs whose thermal zones do not have the CPU


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The state of the machine at one moment.

    Attributes:
        power_w: watts, by rail.
        board_power_w: watts of the whole board, where one of the rails is its supply.
        temperatures_c: by sensor; one that is switched off is missing.
        temperature_c: the hottest of them.
        cpu_load, gpu_load: 0 to 1; the CPU's since the reading before, over all cores.
        cpu_mhz: of the fastest core now.
        gpu_mhz: of the fastest part of the GPU now.
        memory_used_mb, memory_total_mb: in 10⁶ bytes; a Jetson's GPU has a share in them.
        cooling_level: how far CPU or GPU are slowed down for heat now, 0 for not at all.
        throttle_count: how often the CPU has slowed down for heat since it started; x86 counts this.
        overcurrent_counts: how often the board was slowed down for its supply, by kind: on an Orin `oc1` is
            under-voltage, `oc2` average and `oc3` instantaneous over-current.
        throttled: whether the machine is slowed down, or was since the reading before; None where it does
            not tell.
        power_mode: a Jetson's, as `nvpmodel` names it.
    """

    power_w: dict[str, float]
    board_power_w: float | None
    temperatures_c: dict[str, float]
    temperature_c: float | None
    cpu_load: float | None
    gpu_load: float | None
    cpu_mhz: float | None
    gpu_mhz: float | None
    memory_used_mb: int | None
    memory_total_mb: int | None
    cooling_level: int | None
    throttle_count: int | None
    overcurrent_counts: dict[str, int]
    throttled: bool | None
    power_mode: str | None

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, of what is known."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}


class _Rail(NamedTuple):
    """Where a rail's power stands: in one file (µW), or in two (mV and mA)."""

    name: str
    power: Path
    voltage: Path
    current: Path


class Telemetry:
    """Reads the state of the machine.

    Args:
        root: where /proc, /sys and /etc are; another one describes that tree, for tests.
    """

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self._root = base = Path(root)
        chips = [(chip, read_text(chip / "name") or "") for chip in _sorted(base, "sys/class/hwmon/hwmon*")]
        self._rails = named_apart(
            (rail.name, rail) for chip, name in chips if name.startswith("ina") for rail in _rails(chip, name)
        )
        zones = _sorted(base, "sys/class/thermal/thermal_zone*")
        sensors = [(read_text(zone / "type") or zone.name, zone / "temp") for zone in zones]
        for chip, name in chips:
            if name in _CPU_SENSORS:
                sensors += [
                    (read_text(chip / path.name.replace("input", "label")) or name, path)
                    for path in _sorted(chip, "temp*_input")
                ]
        self._sensors = named_apart(sensors)
        gpus = [path for path in _sorted(base, "sys/class/devfreq/*") if _GPU.search(path.name)]
        loads = [gpu / "device/load" for gpu in gpus]
        loads += [base / "sys/devices/platform/gpu.0/load", base / "sys/devices/gpu.0/load"]
        self._gpu_load = next((path for path in loads if read_text(path) is not None), None)
        self._gpu_clocks = [gpu / "cur_freq" for gpu in gpus]
        cores = "sys/devices/system/cpu/cpu[0-9]*"
        self._cpu_clocks = _sorted(base, f"{cores}/cpufreq/scaling_cur_freq")
        self._throttle_counts = _sorted(base, f"{cores}/thermal_throttle/core_throttle_count")
        self._cooling = [
            device / "cur_state"
            for device in _sorted(base, "sys/class/thermal/cooling_device*")
            if _SLOWED_FOR_HEAT.search((read_text(device / "type") or "").lower())
        ]
        self._overcurrent = {
            path.name.partition("_")[0]: path
            for chip, _ in chips
            for path in _sorted(chip, "oc[0-9]*_event_cnt")
        }
        self._cpu_times: tuple[int, int] | None = None
        self._events: int | None = None

    def read(self) -> Reading:
        """The state at this moment."""
        power = {name: watts for name, rail in self._rails.items() if (watts := _watts(rail)) is not None}
        celsius = {
            name: number / 1000
            for name, path in self._sensors.items()
            # some of a Jetson's sensors say -256 °C while the part that they watch is switched off
            if (number := _number(path)) is not None and -40_000 < number < 150_000
        }
        load = None if self._gpu_load is None else _number(self._gpu_load)
        gpu_hz = max(_numbers(self._gpu_clocks), default=None)
        cooling = max(_numbers(self._cooling), default=None)
        counts = _numbers(self._throttle_counts)
        overcurrent = {
            kind: count for kind, path in self._overcurrent.items() if (count := _number(path)) is not None
        }
        total_mb, used_mb = self._memory()
        return Reading(
            power_w=power,
            board_power_w=next((power[name] for name in _BOARD_RAILS if name in power), None),
            temperatures_c=celsius,
            temperature_c=max(celsius.values(), default=None),
            cpu_load=self._load(),
            gpu_load=None if load is None else min(load / 1000, 1.0),
            cpu_mhz=self._cpu_mhz(),
            gpu_mhz=None if gpu_hz is None else gpu_hz / 1e6,
            memory_used_mb=used_mb,
            memory_total_mb=total_mb,
            cooling_level=cooling,
            throttle_count=sum(counts) if counts else None,
            overcurrent_counts=overcurrent,
            throttled=self._throttled(cooling, [*counts, *overcurrent.values()]),
            power_mode=power_mode(self._root),
        )

    def _throttled(self, cooling: int | None, counts: list[int]) -> bool | None:
        if cooling is None and not counts:
            return None
        before, self._events = self._events, sum(counts)
        return bool(cooling) or (before is not None and self._events > before)

    def _load(self) -> float | None:
        """Busy time ÷ time of all cores, since the call before; /proc/stat counts both from the start."""
        found = re.match(r"cpu +([\d ]+)", read_text(self._root / "proc/stat") or "")
        if found is None:
            return None
        # user, nice, system, idle, iowait, irq, softirq, steal; what follows is contained in user and nice
        times = [int(text) for text in found[1].split()[:8]]
        now = (sum(times), sum(times) - sum(times[3:5]))
        before, self._cpu_times = self._cpu_times, now
        if before is None or now[0] <= before[0]:
            return None
        return round(min(max((now[1] - before[1]) / (now[0] - before[0]), 0.0), 1.0), 4)

    def _memory(self) -> tuple[int | None, int | None]:
        text = read_text(self._root / "proc/meminfo") or ""
        total, available = (
            re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE) for name in ("MemTotal", "MemAvailable")
        )
        if total is None:
            return None, None
        total_mb = round(int(total[1]) * 1024 / 1e6)
        return total_mb, total_mb - round(int(available[1]) * 1024 / 1e6) if available else None

    def _cpu_mhz(self) -> float | None:
        if clocks := _numbers(self._cpu_clocks):
            return max(clocks) / 1000
        # virtual machines have no cpufreq, but x86 says it here
        text = read_text(self._root / "proc/cpuinfo") or ""
        return max(map(float, re.findall(r"^cpu MHz\s*: ([\d.]+)", text, re.MULTILINE)), default=None)


def power_mode(root: str | os.PathLike[str] = "/") -> str | None:
    """A Jetson's power mode: its name, or its number where the configuration does not name it.

    `nvpmodel -q` may need root; these files do not.
    """
    base = Path(root)
    status = re.search(r"pmode:(\d+)", read_text(base / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    modes = read_text(base / "etc/nvpmodel.conf") or ""
    for mode in re.finditer(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", modes):
        if int(mode[1]) == number:
            return mode[2]
    return str(number)


def read_text(path: Path) -> str | None:
    """A small file's text without the white space around it; None where it cannot be read or is empty."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:  # missing, not ours to read, or a sensor that is off
        return None


def _rails(chip: Path, name: str) -> Iterator[_Rail]:
    """The rails that one INA chip measures. Inputs that lead nowhere are labelled NC."""
    for current in _sorted(chip, "curr[0-9]*_input"):
        number = current.name.removeprefix("curr").removesuffix("_input")
        label = read_text(chip / f"in{number}_label")
        voltage, power = chip / f"in{number}_input", chip / f"power{number}_input"
        # a chip without labels measures one rail
        if (label or number == "1") and label != "NC" and (voltage.exists() or power.exists()):
            yield _Rail(label or name, power, voltage, current)


def _watts(rail: _Rail) -> float | None:
    if (microwatts := _number(rail.power)) is not None:
        return microwatts / 1e6
    voltage, current = _number(rail.voltage), _number(rail.current)
    return None if voltage is None or current is None else voltage * current / 1e6


def named_apart(pairs: Iterable[tuple[str, _Value]]) -> dict[str, _Value]:
    """A dictionary of pairs whose names may repeat: the second `x` becomes `x-2`."""
    named: dict[str, _Value] = {}
    for name, value in pairs:
        copy = 1
        while (unique := name if copy == 1 else f"{name}-{copy}") in named:
            copy += 1
        named[unique] = value
    return named


def _sorted(base: Path, pattern: str) -> list[Path]:
    return sorted(base.glob(pattern), key=lambda path: (len(path.name), path.name))  # hwmon2 before hwmon10


def _number(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def _numbers(paths: list[Path]) -> list[int]:
    return [number for path in paths if (number := _number(path)) is not None]
