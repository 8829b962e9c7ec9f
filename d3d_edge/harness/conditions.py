"""The state of this machine around a measurement: what else runs on it, clocks, temperatures. Changes nothing."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from d3d_edge.timing import Conditions

PROBE_S = 0.3
"""How long the machine is watched before a measurement begins."""
BUSY_SHARE = 0.1
"""Times are marked when others keep more than this share of the processors busy. This project's choice: on the two
cores it was tried on, the median rose by as much as it differs between runs on the quiet machine."""

_SYSTEM = Path("/sys")


class Watch:
    """Counts the processors that others keep busy, from when it is made."""

    def __init__(self) -> None:
        self._began = self._read()

    def others_cpus(self) -> float:
        """Processors that were busy with anything but this process, on average since the beginning."""
        wall, busy, own = (now - then for now, then in zip(self._read(), self._began, strict=True))
        return max(0.0, busy - own) / wall if wall > 0 else 0.0

    def conditions(self) -> Conditions:
        """The state now, and what others did since the beginning."""
        return _state().model_copy(update={"others_cpus": round(self.others_cpus(), 3)})

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Seconds: the clock, of all processors' work, and of this process's own."""
        total = psutil.cpu_times()
        own = psutil.Process().cpu_times()
        # Time that the host of a virtual machine gave to others is lost to us, too.
        idle = total.idle + getattr(total, "iowait", 0.0) + getattr(total, "guest", 0.0)
        return time.perf_counter(), sum(total) - idle - getattr(total, "guest_nice", 0.0), own.user + own.system


def now(watch_s: float) -> Conditions:
    """The state of this machine, after watching for `watch_s` seconds what others do."""
    watch = Watch()
    time.sleep(watch_s)
    return watch.conditions()


def busy(before: Conditions, after: Conditions, cpus: int | None) -> str:
    """Why times are marked: others kept more than BUSY_SHARE of the processors busy, before or while they were taken.

    Empty where they did not, or where it is not known.
    """
    words = {"before": before.others_cpus, "while": after.others_cpus}
    if not cpus:
        return ""
    found = [f"{used:.1f} {when}" for when, used in words.items() if used is not None and used > BUSY_SHARE * cpus]
    return f"others kept processors busy: {' and '.join(found)} timing, of {cpus}" if found else ""


def _state() -> Conditions:
    return Conditions(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        load_average=_load_average(),
        governor=_first_line(_SYSTEM / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        clock_mhz=_clock_mhz(),
        temperature_c=_temperature_c(),
        power_mode=_first_line(_SYSTEM / "firmware/acpi/platform_profile"),
        charging=_charging(),
        memory_available_bytes=psutil.virtual_memory().available,
    )


def _load_average() -> float | None:
    with suppress(OSError):
        return round(os.getloadavg()[0], 2)
    return None


def _first_line(path: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii").strip() or None
    return None


def _clock_mhz() -> tuple[float, ...]:
    with suppress(OSError, NotImplementedError, RuntimeError):
        return tuple(round(clock.current, 1) for clock in psutil.cpu_freq(percpu=True))
    return ()


def _temperature_c() -> dict[str, float]:
    read = getattr(psutil, "sensors_temperatures", None)  # not on macOS
    found: dict[str, float] = {}
    with suppress(OSError):
        for chip, sensors in read().items() if read else ():
            for number, sensor in enumerate(sensors):
                found[f"{chip}/{sensor.label or number}"] = round(sensor.current, 1)
    return found


def _charging() -> bool | None:
    with suppress(OSError, AttributeError):
        battery = psutil.sensors_battery()
        return None if battery is None else battery.power_plugged
    return None
