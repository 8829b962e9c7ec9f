"""Which runner a bundle has on a device, and what is sent there. The runs themselves are `harness.device`'s."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from d3d_edge import resources, transports
from d3d_edge.bundle import Bundle
from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.files import files_below, sha256_of_file, sha256_of_value
from d3d_edge.harness.device import Job, Program
from d3d_edge.harness.packs import Pack
from d3d_edge.transports import File, Transport

HERE = "local"
"""The name of this machine, whose runtimes are called in this process."""
ANDROID_BENCH = "D3D_EDGE_ANDROID_BENCH"
"""Environment variable: the built program of targets/android/bench, where it is not in its build folder."""

_REACHED_BY = {"tensorrt": ("local", "ssh"), "executorch": ("local", "ssh", "adb"), "coreml": ("ios",)}
"""By runtime: the transports whose devices have a runner for it."""


def fits(bundle: Bundle, device: str) -> bool:
    """Whether a bundle can be run on a device of that kind."""
    return device == HERE or device.partition(":")[0] in _REACHED_BY.get(bundle.manifest.runtime, ())


def check(bundles: Sequence[Bundle], devices: Sequence[str]) -> None:
    """Raises RecipeError if a device has not the form of one, or has no bundle to run."""
    for device in devices:
        transports.check(device)
        kinds = {bundle.manifest.target for bundle in bundles}
        if not any(fits(bundle, device) for bundle in bundles):
            raise RecipeError(f"{device} runs none of the bundles, which are for {', '.join(sorted(kinds))}")


def connect(devices: Sequence[str], stack: ExitStack) -> list[Transport]:
    """The devices but this machine, reached: what cannot be is said before any clip is decoded.

    Raises:
        DeviceError: one is not there.
    """
    return [stack.enter_context(transports.get(device)) for device in dict.fromkeys(devices) if device != HERE]


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
        path = Path(os.environ.get(ANDROID_BENCH) or resources.root("targets") / "android/bench/build/d3d-edge-bench")
        if not path.is_file():
            raise DeviceError(
                f"the program that runs ExecuTorch files on a device is not at {path}",
                hint=f"targets/android/bench/README.md says how to build it; {ANDROID_BENCH} names another place",
            )
        file = File(f"blobs/{(sha256 := sha256_of_file(path))}.bench", path, sha256)
        return Program(file.name, (file,))
    return Program("bench")  # an app that is installed by hand


def _python_runner(scratch: Path) -> Path:
    """targets/jetson/runner as one file that Python runs, with the same bytes every time."""
    folder = resources.root("targets") / "jetson" / "runner"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        sources = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.glob("*/*.py")}
        sources["__main__.py"] = "import sys\n\nfrom d3d_edge_runner.__main__ import main\n\nsys.exit(main())\n"
        for name in sorted(sources):
            archive.writestr(zipfile.ZipInfo(name), sources[name])
    path = scratch / "runner.pyz"
    path.write_bytes(content.getvalue())
    return path


def model_files(bundle: Bundle) -> tuple[str, tuple[File, ...]]:
    """Name of a bundle's model on a device, and its files there."""
    made, path = bundle.manifest, bundle.model_path
    if path.is_file():
        sha256 = made.files[made.model].sha256
        name = f"blobs/{sha256}{path.suffix}"
        return name, (File(name, path, sha256),)
    hashes = {name: entry.sha256 for name, entry in made.files.items() if name.startswith(made.model + "/")}
    whole = f"blobs/{sha256_of_value(hashes)}{path.suffix}"
    files = (
        File(f"{whole}/{file.relative_to(path).as_posix()}", file, hashes[file.relative_to(bundle.path).as_posix()])
        for file in files_below(path)
    )
    return whole, tuple(files)


def job(
    bundle: Bundle, packs: Sequence[Pack], run_by: Program, *, threads: int, logits: bool, timing: dict[str, float]
) -> Job:
    """What a device is to run of `bundle`: all packed clips, or (without `logits`) the first for its time alone."""
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
        logits=logits,
        timing=timing,
    )
