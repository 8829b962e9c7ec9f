"""Raw times of one model on one machine, as a device or this host gathers them, and the figures drawn from them.

Holds values only: `harness.latency` gathers samples here, a device sends its own as the same JSON, and every figure is
computed from samples on the host, by one function.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from d3d_edge.schema import Schema

Build = Literal["release", "debug", ""]
"""How the runtime was compiled; empty: it does not say."""


class Conditions(Schema):
    """The state of a machine at one moment. Null or empty: the machine does not say."""

    time: str = ""
    """ISO 8601, UTC."""
    load_average: float | None = None
    """Of the last minute, as the system gives it."""
    others_cpus: float | None = None
    """Processors that other processes kept busy: in `environment_before`, over a moment before the measurement; in
    `environment_after`, over all of it."""
    cpus: int | None = None
    """Processors there are, where a device says it; of the host they stand in the report's `environment`."""
    governor: str | None = None
    """How the clock of the processor is chosen, e.g. 'performance'."""
    clock_mhz: tuple[float, ...] = ()
    """Of each processor."""
    gpu_clock_mhz: float | None = None
    temperature_c: dict[str, float] = Field(default_factory=dict)
    """By the sensor's name."""
    power_mode: str | None = None
    """E.g. 'MAXN' of a Jetson, 'low power' of a phone."""
    rail_mw: dict[str, float] = Field(default_factory=dict)
    """Power drawn, by the name of the supply rail."""
    thermal_status: str | None = None
    """How far a phone throttles itself, in its own word or number: 'nominal' of iOS, '0' of Android."""
    battery_percent: float | None = None
    charging: bool | None = None
    memory_available_bytes: int | None = None


class EndToEnd(Schema):
    """Times of whole runs from the video file to the logits, run by run, in milliseconds."""

    video: str
    """File name of the video."""
    decode_ms: tuple[float, ...]
    """Reading the file and decoding its frames."""
    resize_ms: tuple[float, ...]
    """Resizing and cropping the frames."""
    network_ms: tuple[float, ...]

    @model_validator(mode="after")
    def _run_by_run(self) -> EndToEnd:
        if not len(self.decode_ms) == len(self.resize_ms) == len(self.network_ms):
            raise ValueError("decode_ms, resize_ms and network_ms must be of the same runs")
        return self


class Sustained(Schema):
    """Times while the network runs without a pause for minutes, in order."""

    at_s: tuple[float, ...]
    """Seconds since the beginning."""
    network_ms: tuple[float, ...]
    """Of one run, or the median of the runs near that moment."""
    clock_mhz: tuple[float, ...] = ()
    """Mean over the processors at those moments; empty where it is not known."""
    temperature_c: tuple[float, ...] = ()
    """Of the hottest sensor at those moments; empty where it is not known."""
    others_cpus: tuple[float, ...] = ()
    """Processors that other processes kept busy around those moments; empty where it is not known."""

    @model_validator(mode="after")
    def _moment_by_moment(self) -> Sustained:
        if len(self.at_s) != len(self.network_ms):
            raise ValueError("at_s and network_ms must be of the same moments")
        for name in ("clock_mhz", "temperature_c", "others_cpus"):
            if len(getattr(self, name)) not in (0, len(self.at_s)):
                raise ValueError(f"{name} must be empty, or of the same moments as at_s")
        return self


class Samples(Schema):
    """Every time that was taken of one model, in order; nothing is averaged, and nothing dropped."""

    load_ms: float
    """Opening the model, its runtime's libraries loaded before; in `benchmark`, its file read from the disk."""
    first_ms: float
    """The first run after that."""
    warmup_ms: tuple[float, ...] = ()
    network_ms: tuple[float, ...] = Field(min_length=1)
    """The network alone, one clip a run, after warm-up."""
    rounds: int = Field(default=1, ge=1)
    """`network_ms` is this many rounds of the same number of runs, one after the other, apart in time.
    `benchmark` loads the model again before each."""
    end_to_end: EndToEnd | None = None
    sustained: Sustained | None = None
    memory_peak_bytes: int | None = None
    """Most resident memory that loading and running the model added to a process in which its runtime had run before;
    measured in a process of its own, apart from all times."""
    threads: int = Field(ge=0)
    """Threads the runtime was told to use; 0: its own choice."""
    build: Build = ""
    environment_before: Conditions = Conditions()
    environment_after: Conditions = Conditions()

    @model_validator(mode="after")
    def _equal_rounds(self) -> Samples:
        if len(self.network_ms) % self.rounds:
            raise ValueError(f"{len(self.network_ms)} runs cannot be {self.rounds} equal rounds")
        return self


class Spread(Schema):
    """How the times of one thing are spread. Percentiles that need more runs than there were are null."""

    runs: int
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p95: float | None = None
    """Null below 20 runs."""
    latency_ms_p99: float | None = None
    """Null below 100 runs."""
    latency_ms_mean: float
    latency_ms_std: float
    latency_ms_min: float


class Drift(Schema):
    """Whether sustained running changes the time of a run; the rule is in `harness.latency.drift`."""

    verdict: Literal["steady", "slower", "faster", "undecided", "too short to tell"]
    """'undecided': what other processes did meanwhile may have made the change, or hidden one."""
    minutes: float
    change: float | None = None
    """Median of the last fifth of the time over that of the first fifth, minus one."""
    p_value: float | None = None
    """Of the Mann-Kendall test: how often a series without a trend would rise or fall as steadily."""


class Latency(Spread):
    """Everything that `Samples` say; the figures at the top are of the network alone, after warm-up."""

    threads: int
    load_ms: float
    first_ms: float
    memory_peak_bytes: int | None = None
    end_to_end: Spread | None = None
    decode_ms_p50: float | None = None
    resize_ms_p50: float | None = None
    drift: Drift | None = None
    busy: str = ""
    """What else the machine did, so that the times are not to be trusted; empty where it was quiet, or is not known."""
