"""Which runner a bundle has on a device, and what is sent there. The runs themselves are `harness.device`'s."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from d3d_edge import resources, transports
from d3d_edge.bundle import Bundle
from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.files import files_below, sha256_of_file
from d3d_edge.harness import accuracy, device, latency
from d3d_edge.harness.accuracy import Logits
from d3d_edge.harness.device import Job, Outcome, Program
from d3d_edge.harness.packs import Pack, Packer
from d3d_edge.harness.stopwatch import Plan
from d3d_edge.pipeline.golden import golden_of
from d3d_edge.progress import Progress
from d3d_edge.runner import Where
from d3d_edge.transports import File, Transport

HERE = "local"
"""The name of this machine, whose runtimes are called in this process."""
NO_DEVICE = "none of the devices given runs it"
"""What stands beside a bundle that is not run for that reason."""
Runtime = Literal["auto", "tensorrt", "onnxruntime"]


@dataclass(frozen=True)
class Devices:
    """Where bundles are to be run."""

    names: tuple[str, ...] = (HERE,)
    """As `transports.get` takes them, or HERE."""
    runtime: Runtime = "auto"
    """What runs the file of a Jetson's bundle there. auto: TensorRT where it is installed, else ONNX Runtime."""
    resume: bool = False
    """Whether clips that an interrupted run finished on a device are kept."""

    @property
    def remote(self) -> tuple[str, ...]:
        """All but this machine."""
        return tuple(name for name in dict.fromkeys(self.names) if name != HERE)

    def suffix(self, name: str) -> str:
        """What is added to the name of a bundle's row: short enough for a table, and no two alike."""
        if name == HERE:
            return ""
        labels = [_label(other) for other in self.remote]
        label = _label(name)
        return f" on {label if labels.count(label) == 1 else name}"


def _label(name: str) -> str:
    """The host, serial or kind that a person would call a device by."""
    kind, _, rest = name.partition(":")
    return {"ssh": rest.partition(":")[0].rpartition("@")[2], "adb": rest, "ios": rest[-6:]}.get(kind) or kind


ANDROID_BENCH = "D3D_EDGE_ANDROID_BENCH"
"""Environment variable: the built program of targets/android/bench, where it is not in its build folder."""

_REACHED_BY = {"tensorrt": ("local", "ssh"), "executorch": ("adb",), "coreml": ("ios",)}
"""By runtime: the transports whose devices have a runner for it."""


def fits(bundle: Bundle, device: str) -> bool:
    """Whether a bundle can be run on a device of that kind."""
    return device == HERE or device.partition(":")[0] in _REACHED_BY.get(bundle.manifest.runtime, ())


def check(bundles: Sequence[Bundle], devices: Devices) -> None:
    """What can be said before any device is reached.

    Raises:
        RecipeError: a device has not the form of one, or has no bundle to run; or no device heeds the choice of a
            runtime, or to resume.
        DeviceError: the program that a device is to run is not built.
    """
    for name in devices.names:
        transports.check(name)
    _check_heeded(devices)
    for name in devices.names:
        kinds = {bundle.manifest.target for bundle in bundles}
        if not any(fits(bundle, name) for bundle in bundles):
            raise RecipeError(f"{name} runs none of the bundles, which are for {', '.join(sorted(kinds))}")
        if name != HERE and any(made.manifest.runtime == "executorch" for made in bundles if fits(made, name)):
            android_bench()


def _check_heeded(devices: Devices) -> None:
    hint = "leave it out, or name the device"
    jetsons = [name for name in devices.remote if name.partition(":")[0] in _REACHED_BY["tensorrt"]]
    if devices.runtime != "auto" and not jetsons:
        raise RecipeError(
            f"--device-runtime {devices.runtime} is for the file of a Jetson's bundle on ssh:HOST or local:FOLDER, "
            "and no --device is one",
            hint=hint,
        )
    if devices.resume and not devices.remote:
        raise RecipeError(
            "--resume goes on with what was cut short on a device, and no --device is another than this machine",
            hint=hint,
        )


THIS_MACHINE = Devices()


class Fleet:
    """The devices, reached. A context manager: what cannot be reached is said before any clip is decoded."""

    def __init__(self, devices: Devices, threads: int) -> None:
        self._devices, self._threads = devices, threads
        self._transports: dict[str, Transport] = {}
        self._packs: tuple[Pack, ...] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._packer = Packer(self._scratch)
            for name in self._devices.remote:
                self._transports[name] = stack.enter_context(transports.get(name))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def packed(self, clips: Iterable[NDArray[np.uint8]]) -> Iterable[NDArray[np.uint8]]:
        """`clips`, each kept for the devices on its way, where there are any."""
        return self._packer.through(clips) if self._transports else clips

    def try_out(self, bundles: Iterable[Bundle], progress: Progress) -> None:
        """Run the clips stored in each bundle once on every device that can run it.

        What a device lacks is said now, and not after all that is measured before it.

        Raises:
            DeviceError: one failed.
        """
        once = {"warmup": 0, "runs": 1, "min-runs": 1, "budget-s": 0.0}
        for bundle in bundles:
            for name in self._transports:
                if fits(bundle, name):
                    self._ran(name, bundle, (), once, progress, f"trying {bundle.path.name} on {name}", resume=False)

    def run(
        self, name: str, bundle: Bundle, plan: Plan, progress: Progress, *, sustained_s: float = 0.0
    ) -> tuple[dict[str, object], Logits]:
        """What the device of that name says of a bundle: fields of a `Row`, and logits of all packed clips.

        Raises:
            DeviceError: it failed, or has no runner for the bundle.
        """
        if self._packs is None:
            self._packs = self._packer.finished()
        timing, title = _timing(plan, sustained_s), f"{bundle.path.name} on {name}"
        came = self._ran(name, bundle, self._packs, timing, progress, title, resume=self._devices.resume)
        stored = golden_of(bundle).logits
        kept, time = len(came.logits) - came.ran, came.samples.environment_before.time
        old = f"its times, and the logits of {kept} of {len(came.logits)} clips, are of an earlier run, {time}"
        fields: dict[str, object] = {
            "note": old if kept else "",
            "where": Where.DEVICE if came.native else Where.HOST_RUNTIME,
            "device": name,
            "runtime": f"{came.runtime} on {came.device}",
            "golden_difference_max": accuracy.largest_difference(came.logits[: len(stored)], stored),
            "samples": came.samples,
            "latency": latency.figures(came.samples),
        }
        return fields, came.logits[len(stored) :]

    def _ran(
        self,
        name: str,
        bundle: Bundle,
        packs: Sequence[Pack],
        timing: Mapping[str, float],
        progress: Progress,
        title: str,
        *,
        resume: bool,
    ) -> Outcome:
        """What comes back of the clips stored in a bundle, and of `packs`."""
        with tempfile.TemporaryDirectory() as scratch:
            golden = Packer(Path(scratch))
            for clip in golden_of(bundle).clips:
                golden.add(clip)
            run_by = program(bundle, self._devices.runtime, Path(scratch))
            todo = job(bundle, (*golden.finished(), *packs), run_by, threads=self._threads, timing=timing)
            with progress.task(title, todo.count) as task:
                counted = 0

                def count(done: int) -> None:
                    nonlocal counted
                    task.advance(done - counted)
                    counted = done

                return device.run(self._transports[name], todo, resume=resume, on_clip=count)


def _timing(plan: Plan, sustained_s: float) -> dict[str, float]:
    """`plan` in the words of the protocol; a device makes all runs in one round."""
    least = plan.runs if plan.budget_s is None else plan.rounds_made
    timing = {"warmup": plan.warmup_runs, "runs": plan.runs, "min-runs": least, "budget-s": plan.budget_s or 0.0}
    return timing | ({"sustained-s": sustained_s} if sustained_s else {})


def program(bundle: Bundle, runtime: str, scratch: Path) -> Program:
    """The runner of a bundle. `runtime` is the choice of a Jetson's: auto, tensorrt or onnxruntime.

    Raises:
        DeviceError: it has to be built by hand, and is not.
    """
    kind = bundle.manifest.runtime
    if kind == "tensorrt":
        path = _python_runner(scratch)
        file = File(f"blobs/{(sha256 := sha256_of_file(path))}.pyz", path, sha256)
        return Program(file.name, (file,), ("--runtime", runtime))
    if kind == "executorch":
        path = android_bench()
        file = File(f"blobs/{(sha256 := sha256_of_file(path))}.bench", path, sha256)
        return Program(file.name, (file,))
    return Program("bench")  # an app that is installed by hand


def android_bench() -> Path:
    """The program that runs ExecuTorch files on a device.

    Raises:
        DeviceError: it is not built.
    """
    path = Path(os.environ.get(ANDROID_BENCH) or resources.root("targets") / "android/bench/build/d3d-edge-bench")
    if not path.is_file():
        raise DeviceError(
            f"the program that runs ExecuTorch files on a device is not at {path}",
            hint=f"targets/android/bench/README.md says how to build it; {ANDROID_BENCH} names another place",
        )
    return path


_RUNNER_MAIN = """\
import sys

if sys.version_info < (3, 8):
    sys.exit("Python 3.8 or newer is needed, %s is %d.%d" % ((sys.executable,) + tuple(sys.version_info[:2])))
try:
    import numpy
except ImportError:
    sys.exit("numpy is missing: pip install numpy, for " + sys.executable)
from d3d_edge_runner.__main__ import main

sys.exit(main())
"""
"""For whatever Python a device has, so in words that every Python reads."""


def _python_runner(scratch: Path) -> Path:
    """targets/jetson/runner as one file that Python runs, with the same bytes every time."""
    folder = resources.root("targets") / "jetson" / "runner"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        sources = {
            path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.glob("*/*.py")
        }
        sources["__main__.py"] = _RUNNER_MAIN
        for name in sorted(sources):
            archive.writestr(zipfile.ZipInfo(name), sources[name])
    path = scratch / "runner.pyz"
    path.write_bytes(content.getvalue())
    return path


def model_files(bundle: Bundle) -> tuple[str, tuple[File, ...]]:
    """Name of a bundle's model on a device, and its files there."""
    made, path = bundle.manifest, bundle.model_path
    whole = f"blobs/{made.model_sha256}{path.suffix}"
    if path.is_file():
        return whole, (File(whole, path, made.model_sha256),)
    files = (
        File(
            f"{whole}/{file.relative_to(path).as_posix()}",
            file,
            made.files[file.relative_to(bundle.path).as_posix()].sha256,
        )
        for file in files_below(path)
    )
    return whole, tuple(files)


def job(bundle: Bundle, packs: Sequence[Pack], run_by: Program, *, threads: int, timing: Mapping[str, float]) -> Job:
    """What a device is to run of `bundle`: the first of all packed clips for its time, then all for their logits."""
    model, files = model_files(bundle)
    made = bundle.manifest
    clips = tuple((File(f"blobs/{pack.sha256}.clips", pack.path, pack.sha256), pack.clips) for pack in packs)
    return Job(
        program=run_by,
        model=model,
        files=files,
        clips=clips,
        shape=made.clip.shape,
        classes=len(made.labels),
        threads=threads,
        timing=timing,
    )
