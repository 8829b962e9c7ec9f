"""What the machine is, and the state it is in: clocks, power mode, temperatures and rails, where it gives them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|gpc")
"""Names of a Jetson's GPU below /sys/class/devfreq, from Xavier to Thor."""


def describe(root: Path = Path("/")) -> str:
    """The board's own name, else the processor's, and the host's name."""
    model = _text(root / "proc/device-tree/model")
    if model is None:
        found = re.search(r"^model name\s*: (.*)$", _text(root / "proc/cpuinfo") or "", re.MULTILINE)
        model = found.group(1).strip() if found else platform.processor() or "unknown processor"
    return f"{platform.node()} ({model}, {platform.machine()})"


def power_mode(root: Path = Path("/")) -> str | None:
    """The mode that nvpmodel has set, e.g. 'MAXN'; null on a machine without it."""
    try:
        done = subprocess.run(["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
        found = re.search(r"Power Mode: *(\S+)", done.stdout.decode(errors="replace"))
    except (OSError, subprocess.TimeoutExpired):
        found = None
    found = found or re.search(r"(pmode:\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    return found.group(1) if found else None


def state(root: Path = Path("/")) -> dict[str, Any]:
    """What can be read now, as the report names it. What the board does not give, or not to this user, is left out."""
    found = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_average": _load(root),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": _cpu_mhz(root),
        "gpu_clock_mhz": _gpu_mhz(root),
        "temperature_c": _temperatures(root),
        "power_mode": power_mode(root),
        "rail_mw": _rails(root),
        "memory_available_bytes": _memory(root),
    }
    return {name: value for name, value in found.items() if value not in (None, {}, [])}


class Watch:
    """Counts the processors that others keep busy, from its making on."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._began = self._read()

    def found(self) -> dict[str, Any]:
        """`others_cpus` until now and `cpus`, as the report names them; nothing where Linux does not say."""
        began, now = self._began, self._read()
        if began is None or now is None or now[0] <= began[0]:
            return {}
        others = (now[1] - began[1]) / (now[0] - began[0])
        return {"others_cpus": round(max(0.0, others), 3), "cpus": os.cpu_count()}

    def _read(self) -> tuple[float, float] | None:
        """Seconds: of the clock, and of all processors' work but this process's."""
        words = re.search(r"^cpu +(.*)$", _text(self._root / "proc/stat") or "", re.MULTILINE)
        if not words:
            return None
        # proc_stat(5): idle and iowait are no work; irq, softirq and steal are; guests are counted as users, too.
        user, nice, system, _, _, *more = map(int, words.group(1).split()[:8])
        work_s = (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), work_s - time.process_time()


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None


def _cpu_mhz(root: Path) -> list[float]:
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    return [khz / 1e3 for khz in map(_number, paths) if khz is not None]


def _gpu_mhz(root: Path) -> float | None:
    for path in sorted((root / "sys/class/devfreq").glob("*/cur_freq")):
        hertz = _number(path)
        if hertz is not None and _GPU.search(path.parent.name):
            return hertz / 1e6
    return None


def _temperatures(root: Path) -> dict[str, float]:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, milli = _text(zone / "type"), _number(zone / "temp")
        if name and milli is not None:
            found[name] = milli / 1e3
    return found


def _rails(root: Path) -> dict[str, float]:
    """Milliwatts of each rail that an INA3221 measures; its channels have a label, millivolts and milliamperes."""
    found = {}
    for label in sorted((root / "sys/class/hwmon").glob("hwmon*/in*_label")):
        channel = label.name[len("in") : -len("_label")]
        name = _text(label)
        volts, amperes = (
            _number(label.with_name(f"in{channel}_input")),
            _number(label.with_name(f"curr{channel}_input")),
        )
        if name and volts is not None and amperes is not None:
            found[name] = volts * amperes / 1e3
    return found


def _memory(root: Path) -> int | None:
    found = re.search(r"^MemAvailable: *(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE)
    return 1024 * int(found.group(1)) if found else None


def _load(root: Path) -> float | None:
    """Processes that wanted to run in the last minute: whether the device had other work."""
    words = (_text(root / "proc/loadavg") or "").split()
    return float(words[0]) if words else None
