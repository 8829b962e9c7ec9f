"""The state of this machine around a measurement: what else runs on it, clocks, temperatures. Changes nothing."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import psutil

from d3d_edge.timing import Conditions

PROBE_S = 0.3
"""How long the machine is watched before a measurement begins."""
BUSY_SHARE = 0.1
"""Times are marked when others keep more than this share of the processors busy: this project's choice, above what an
idle system does by itself and below one more process on eight processors."""
SMALLEST_CHANGE_BUSY = 0.15
"""Times that differ by less tell nothing where others kept processors busy: they share caches and memory, too."""

_LEFT_AT_LEAST = 0.05
"""Share of the processors that the system leaves to anyone, however busy it is."""
_SYSTEM = Path("/sys")


class Watch:
    """Counts the processors that others keep busy while its block runs; blocks of one watch are added up."""

    def __init__(self) -> None:
        self._wall_s = self._others_s = 0.0
        self._began = (0.0, 0.0)

    def __enter__(self) -> Self:
        self._began = self._read()
        return self

    def __exit__(self, *exc_info: object) -> None:
        wall_s, others_s = (now - then for now, then in zip(self._read(), self._began, strict=True))
        self._wall_s += wall_s
        self._others_s += others_s

    def conditions(self) -> Conditions:
        """The state now, and what others did in the blocks."""
        others = max(0.0, self._others_s) / self._wall_s if self._wall_s else 0.0
        return state().model_copy(update={"others_cpus": round(others, 3)})

    @staticmethod
    def _read() -> tuple[float, float]:
        """Seconds: of the clock, and of all processors' work but this process's."""
        total = psutil.cpu_times()
        # A guest's time is counted as a user's, too. Time that the host of a virtual machine gave to others is work of
        # others: it is lost to us as well.
        idle = sum(getattr(total, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
        return time.perf_counter(), sum(total) - idle - time.process_time()


def now(watch_s: float) -> Conditions:
    """The state of this machine, after watching for `watch_s` seconds what others do."""
    watch = Watch()
    with watch:
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


def slowed(others: float, threads: int, cpus: int) -> float:
    """How many times as long a run of `threads` threads (0: all) may take while others keep `others` processors busy.

    The threads share what the others leave: with n processors of which others have o, t threads have (n - o) / t of
    one each.
    """
    return max(1.0, min(threads or cpus, cpus) / max(cpus - others, _LEFT_AT_LEAST * cpus))


def state() -> Conditions:
    """The state of this machine now."""
    return Conditions(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        load_average=_load_average(),
        cpus=os.cpu_count(),  # all, as `Watch` counts the work of others on all: not those left to this process
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
