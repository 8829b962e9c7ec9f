"""Raw times of one model on one machine, as a device or this host gathers them, and the figures drawn from them.

Holds values only: `harness.latency` gathers samples here, a device sends its own as the same JSON, and every figure is
computed from samples on the host, by one function.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from d3d_edge.schema import Schema

Build = Literal["release", "debug", ""]
"""How the runtime was compiled; empty: it does not say."""

# Wide enough for whatever a device may measure, and narrow enough that figures and charts can be computed of it.
_RUN, _SUM, _PART = Field(ge=1e-6, le=1e9), Field(ge=1e-6, le=1e10), Field(ge=0, le=1e9)
_READING = Field(ge=-1e9, le=1e9)
RunMs = Annotated[float, _RUN]
"""Milliseconds of a run: a nanosecond at least, which no clock is finer than, and eleven days at most."""
SumMs = Annotated[float, _SUM]
"""Milliseconds of a run and of what is done before it."""
PartMs = Annotated[float, _PART]
"""Milliseconds of what may take none."""
Reading = Annotated[float, _READING]
"""What a sensor says, in its unit."""
MOST = 2**63 - 1
"""Of bytes, and of things that are counted."""
Count = Annotated[int, Field(ge=0, le=MOST)]


class Conditions(Schema):
    """The state of a machine at one moment. Null or empty: the machine does not say."""

    time: str = ""
    """ISO 8601, UTC."""
    load_average: Annotated[float | None, _READING] = None
    """Of the last minute, as the system gives it."""
    others_cpus: float | None = Field(default=None, ge=0, le=1e6)
    """Processors that other processes kept busy: in `environment_before`, over a moment before the measurement; in
    `environment_after`, over all of it."""
    cpus: int | None = Field(default=None, ge=1, le=1_000_000)
    """Processors there are, whichever of them a process may use."""
    governor: str | None = None
    """How the clock of the processor is chosen, e.g. 'performance'."""
    clock_mhz: tuple[Reading, ...] = ()
    """Of each processor."""
    gpu_clock_mhz: Annotated[float | None, _READING] = None
    temperature_c: dict[str, Reading] = Field(default_factory=dict)
    """By the sensor's name."""
    power_mode: str | None = None
    """E.g. 'MAXN' of a Jetson, 'low power' of a phone."""
    rail_mw: dict[str, Reading] = Field(default_factory=dict)
    """Power drawn, by the name of the supply rail."""
    thermal_status: str | None = None
    """How far a phone throttles itself, in its own word or number: 'nominal' of iOS, '0' of Android."""
    battery_percent: Annotated[float | None, _READING] = None
    charging: bool | None = None
    memory_available_bytes: int | None = Field(default=None, ge=0, le=MOST)


class EndToEnd(Schema):
    """Times of whole runs from the video file to the logits, run by run, in milliseconds."""

    video: str
    """File name of the video."""
    decode_ms: tuple[PartMs, ...] = Field(min_length=1)
    """Reading the file and decoding its frames."""
    resize_ms: tuple[PartMs, ...]
    """Resizing and cropping the frames."""
    network_ms: tuple[RunMs, ...]

    @model_validator(mode="after")
    def _run_by_run(self) -> EndToEnd:
        if not len(self.decode_ms) == len(self.resize_ms) == len(self.network_ms):
            raise ValueError("decode_ms, resize_ms and network_ms must be of the same runs")
        return self


class Sustained(Schema):
    """Times while the network runs without a pause for minutes, in order."""

    at_s: tuple[Annotated[float, Field(ge=0, le=1e9)], ...]
    """Seconds since the beginning."""
    network_ms: tuple[RunMs, ...]
    """Of one run, or the median of the runs near that moment."""
    clock_mhz: tuple[Reading, ...] = ()
    """Mean over the processors at those moments; empty where it is not known."""
    temperature_c: tuple[Reading, ...] = ()
    """Of the hottest sensor at those moments; empty where it is not known."""
    others_cpus: tuple[Annotated[float, Field(ge=0, le=1e6)], ...] = ()
    """Processors that other processes kept busy around those moments; empty where it is not known."""

    @model_validator(mode="after")
    def _moment_by_moment(self) -> Sustained:
        if len(self.at_s) != len(self.network_ms):
            raise ValueError("at_s and network_ms must be of the same moments")
        if any(later < earlier for earlier, later in pairwise(self.at_s)):
            raise ValueError("at_s must rise")
        for name in ("clock_mhz", "temperature_c", "others_cpus"):
            if len(getattr(self, name)) not in (0, len(self.at_s)):
                raise ValueError(f"{name} must be empty, or of the same moments as at_s")
        return self


_HEAT = {"unknown": 0, "nominal": 0, "fair": 1, "serious": 2, "critical": 3}
"""The words of iOS; Android has numbers, which rise from 0."""


def _heat(status: str) -> int:
    return int(status) if status.isdecimal() else _HEAT.get(status, 1)


class Samples(Schema):
    """Every time that was taken of one model, in order; nothing is averaged, and nothing dropped."""

    load_ms: PartMs
    """Opening the model, its runtime's libraries loaded before; in `benchmark`, its file read from the disk."""
    first_ms: RunMs
    """The first run after that."""
    warmup_ms: tuple[RunMs, ...] = ()
    network_ms: tuple[RunMs, ...] = Field(min_length=1)
    """The network alone, one clip a run, after warm-up."""
    rounds: int = Field(default=1, ge=1)
    """`network_ms` is this many rounds of the same number of runs, one after the other, apart in time.
    `benchmark` loads the model again before each."""
    end_to_end: EndToEnd | None = None
    sustained: Sustained | None = None
    memory_peak_bytes: int | None = Field(default=None, ge=0, le=MOST)
    """What loading and running the model added to the memory of a process.

    On this machine, the most resident memory, in a process of its own in which the runtime had run before, apart from
    all times. A device measures it in the process that is timed, from before the model is loaded to after the last
    timed run: a Jetson how far the most resident memory rose (VmHWM); Android and iOS how much more there is in the
    end (PSS, and the footprint of the app), which is less than a peak in between."""
    threads: Count
    """Threads the runtime was told to use, or says that it uses (ExecuTorch on Android); 0: its own choice, or it
    cannot be told (TensorRT, Core ML)."""
    build: Build = ""
    environment_before: Conditions = Conditions()
    environment_after: Conditions = Conditions()

    @property
    def hot(self) -> str:
        """The worst that a phone said of its heat, before or after, in its own word; empty where all is well."""
        found = (self.environment_before.thermal_status, self.environment_after.thermal_status)
        worst = max((status or "unknown" for status in found), key=_heat)
        return worst if _heat(worst) else ""

    @property
    def heat_note(self) -> str:
        """What to know of the times of a phone that was hot; empty of others."""
        return f"its phone may have slowed itself down, as it was hot (thermal status {self.hot})" if self.hot else ""

    @model_validator(mode="after")
    def _equal_rounds(self) -> Samples:
        if len(self.network_ms) % self.rounds:
            raise ValueError(f"{len(self.network_ms)} runs cannot be {self.rounds} equal rounds")
        return self


class Spread(Schema):
    """How the times of one thing are spread. Percentiles that need more runs than there were are null."""

    runs: int = Field(ge=1, le=MOST)
    latency_ms_p50: SumMs
    latency_ms_p90: SumMs
    latency_ms_p95: Annotated[float | None, _SUM] = None
    """Null below 20 runs."""
    latency_ms_p99: Annotated[float | None, _SUM] = None
    """Null below 100 runs."""
    latency_ms_mean: SumMs
    latency_ms_std: float = Field(ge=0, le=1e10)
    latency_ms_min: SumMs


class Drift(Schema):
    """Whether sustained running changes the time of a run; the rule is in `harness.latency.drift`."""

    verdict: Literal["steady", "slower", "faster", "undecided", "too short to tell"]
    """'undecided': what other processes did meanwhile may have made the change, or hidden one."""
    minutes: float = Field(ge=0, le=1e9)
    change: float | None = None
    """Median of the last fifth of the time over that of the first fifth, minus one."""
    p_value: float | None = None
    """Of the Mann-Kendall test: how often a series without a trend would rise or fall as steadily."""


class Latency(Spread):
    """Everything that `Samples` say; the figures at the top are of the network alone, after warm-up."""

    threads: Count
    load_ms: PartMs
    first_ms: RunMs
    memory_peak_bytes: int | None = Field(default=None, ge=0, le=MOST)
    end_to_end: Spread | None = None
    decode_ms_p50: Annotated[float | None, _PART] = None
    resize_ms_p50: Annotated[float | None, _PART] = None
    drift: Drift | None = None
    busy: str = ""
    """What else the machine did, so that the times are not to be trusted; empty where it was quiet, or is not known."""
