"""Times of student shapes: measured once, kept, and nothing proposed that was not measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from d3d_edge import resources, runtimes, target, transports
from d3d_edge.errors import DeviceError, RecipeError
from d3d_edge.harness.stopwatch import Plan
from d3d_edge.pipeline import latencies, students
from d3d_edge.pipeline.latencies import Latencies, Timed, grid, measure
from d3d_edge.presets import Shape
from d3d_edge.progress import Silent
from d3d_edge.report import Environment, Report
from d3d_edge.runner import Where
from tests import networks

TINY = Shape.of(networks.FRAMES, networks.SIDE, 0.25)
OTHER, THIRD = Shape.of(8, 16, 0.25), Shape.of(6, 16, 0.25)
RECOGNISER = students.recogniser


@pytest.fixture(autouse=True, scope="module")
def small_networks() -> Iterator[None]:
    """A smaller network than S3D-G for every shape, timed in fewer rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latencies, "PLAN", Plan(runs=4, rounds=2, warmup_runs=1, budget_s=0.2))
        patch.setattr(students, "recogniser", lambda _: networks.small())
        patch.setattr(students, "CLASSES", networks.CLASSES)
        yield


def asked(folder: Path, *shapes: Shape, kind: str = "host", **changes: Any) -> Latencies:
    said = {"on": "host", "threads": 1, "workers": 1, "again": False} | changes
    return measure(shapes, target.load(kind), cache_dir=folder, progress=Silent(), **said)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which TINY was measured with one thread, and networks of OTHER and THIRD were lowered."""
    folder = tmp_path_factory.mktemp("cache")
    asked(folder, TINY)
    students.bundles([OTHER, THIRD], target.load("host"), folder / "students", workers=1, progress=Silent())
    return folder


@pytest.fixture
def own_cache(cache: Path, tmp_path: Path) -> Path:
    """A copy of that cache, to be added to."""
    return Path(shutil.copytree(cache, tmp_path / "cache"))


@pytest.fixture
def nothing_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network is lowered")

    monkeypatch.setattr(students, "bundles", refuse)


def test_a_shape_is_timed_here(cache: Path) -> None:
    found = asked(cache, TINY)
    (row,) = found.rows
    assert (found.device, found.where, found.target, found.threads) == ("host", Where.HOST_TORCH, "host", 1)
    assert (row.shape, row.name) == (TINY, "")
    assert 0 < row.latency_ms_min <= row.latency_ms_p50 <= row.latency_ms_p90
    assert row.runs >= latencies.PLAN.rounds
    assert min(row.size_bytes, row.parameters, row.gmac) > 0


@pytest.mark.usefixtures("nothing_made")
def test_what_was_measured_is_kept(cache: Path) -> None:
    assert asked(cache, TINY, TINY) == asked(cache, TINY)


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize(
    "change", [{"again": True}, {"threads": 2}, {"on": "ssh:board"}, {"shapes": (TINY, OTHER)}], ids=str
)
def test_what_was_not_is_measured(cache: Path, change: dict[str, Any]) -> None:
    shapes = change.pop("shapes", (TINY,))
    with pytest.raises(AssertionError, match="a network is lowered"):
        asked(cache, *shapes, **change)


@pytest.mark.usefixtures("nothing_made")
def test_times_of_another_machine_are_not_this_one_s(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = latencies.environment
    another = {"processor": "another"}
    monkeypatch.setattr(latencies, "environment", lambda *given: here(*given).model_copy(update=another))
    with pytest.raises(AssertionError, match="a network is lowered"):
        asked(cache, TINY)


@pytest.mark.usefixtures("nothing_made")
def test_nor_are_those_of_another_target_of_the_same_runtime(cache: Path, tmp_path: Path) -> None:
    text = resources.find("targets", "host").read_text(encoding="utf-8")
    (tmp_path / "target.yaml").write_text(text.replace("name: host", "name: own"), encoding="utf-8")
    with pytest.raises(AssertionError, match="a network is lowered"):
        asked(cache, TINY, kind=str(tmp_path))


def test_measuring_a_shape_again_leaves_the_others(own_cache: Path) -> None:
    asked(own_cache, TINY, OTHER)
    first = asked(own_cache, OTHER)
    again = asked(own_cache, TINY, again=True)
    assert asked(own_cache, OTHER) == first
    assert asked(own_cache, TINY) == again
    assert again.environment.started == first.environment.started
    assert asked(own_cache, TINY, OTHER, again=True).environment.started > first.environment.started


def test_another_board_of_the_same_name_gets_none_of_the_kept_times(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(own_cache, TINY, OTHER)
    benchmark, timed = latencies.benchmark, []

    def by_another(paths: list[Path], **options: Any) -> tuple[Report, list[DeviceError]]:
        timed.append(len(paths))
        report, failed = benchmark(paths, **options)
        rows = tuple(row.model_copy(update={"runtime": "another"}) for row in report.rows)
        return report.model_copy(update={"rows": rows}), failed

    monkeypatch.setattr(latencies, "benchmark", by_another)
    found = asked(own_cache, TINY, THIRD)
    assert (found.runtime, [row.shape for row in found.rows]) == ("another", [TINY, THIRD])
    assert timed == [1, 1]
    asked(own_cache, OTHER)
    assert timed == [1, 1, 1]


def test_what_another_command_measures_meanwhile_is_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = latencies.benchmark

    def beside(paths: list[Path], **options: Any) -> tuple[Report, list[DeviceError]]:
        monkeypatch.setattr(latencies, "benchmark", benchmark)
        asked(own_cache, THIRD)
        return benchmark(paths, **options)

    monkeypatch.setattr(latencies, "benchmark", beside)
    asked(own_cache, OTHER)
    monkeypatch.setattr(students, "bundles", lambda *_, **__: pytest.fail("a network is lowered"))
    assert [row.shape for row in asked(own_cache, OTHER, TINY, THIRD).rows] == [OTHER, TINY, THIRD]


def test_a_student_is_the_network_of_its_shape() -> None:
    plain, later = (Shape.of(2, 16, 0.1, first) for first in ("Conv2d_2c_3x3", "Mixed_5c"))
    sizes = [sum(p.numel() for p in RECOGNISER(shape).parameters()) for shape in (plain, later)]
    assert sizes[0] > sizes[1]


def test_the_network_that_was_lowered_is_used_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(students, "_make", lambda *_: pytest.fail("a network is lowered"))
    found = asked(cache, TINY, threads=2)
    assert found.threads == 2
    assert found.rows[0].size_bytes == asked(cache, TINY).rows[0].size_bytes


@pytest.mark.parametrize("changed", ["tools", "options"])
def test_a_network_that_was_lowered_otherwise_is_lowered_again(
    changed: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Shape] = []
    monkeypatch.setattr(students, "_make", lambda _, __, shape: made.append(shape))
    host = target.load("host")
    if changed == "tools":
        monkeypatch.setattr(students, "tools", lambda _: {"torch": "another"})
    else:
        host = host.model_copy(update={"options": {"opset": 18}})
    students.bundles([TINY], host, cache / "students", workers=1, progress=Silent())
    assert made == [TINY]


def test_an_interpreter_gives_no_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interpreter:
        where = Where.REFERENCE_INTERPRETER

        def __enter__(self) -> Interpreter:
            return self

        def __exit__(self, *_: object) -> None: ...

    none: dict[str, Any] = {"check_run": lambda: None, "tools": dict, "run_tools": dict}
    runtime = SimpleNamespace(open=lambda _: Interpreter(), **none)
    monkeypatch.setattr(runtimes, "get", lambda _: runtime)
    monkeypatch.setattr(students, "bundles", lambda *_, **__: {TINY: None})
    monkeypatch.setattr(latencies, "check", lambda *_: None)
    for this_machine in ("host", "local"):
        with pytest.raises(RecipeError, match="ios: an interpreter reads these files on this machine"):
            asked(tmp_path, TINY, kind="ios", on=this_machine)


def test_a_device_that_is_not_there_is_known_after_one_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[Shape] = []

    def bundles(shapes: list[Shape], *_: object, **__: object) -> dict[Shape, None]:
        lowered.extend(shapes)
        return dict.fromkeys(shapes)

    monkeypatch.setattr(students, "bundles", bundles)
    monkeypatch.setattr(latencies, "check", lambda *_: None)
    monkeypatch.setattr(transports, "get", Mock(side_effect=DeviceError("no such host")))
    with pytest.raises(DeviceError, match="no such host"):
        asked(tmp_path, TINY, OTHER, on="ssh:nohost")
    assert lowered == [TINY]


@pytest.mark.usefixtures("nothing_made")
def test_a_shape_without_a_clip_is_refused_before_any_is_lowered(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"clips of 64x3584x3584 .*: a clip of"):
        asked(tmp_path, TINY, Shape.of(64, 3584, 0.25))
    with pytest.raises(RecipeError, match=r"the network of 2x16x16 .*temporal_from"):
        asked(tmp_path, TINY, Shape.of(2, 16, 0.1, "Mixed_9z"))


@pytest.mark.usefixtures("nothing_made")
@pytest.mark.parametrize("left", [b"\xff\xfe", b"{}", b""])
def test_what_was_measured_and_cannot_be_read_is_measured_again(left: bytes, cache: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(cache, tmp_path / "cache"))
    for kept in (again / "students").glob("latencies-*.json"):
        kept.write_bytes(left)
    with pytest.raises(AssertionError, match="a network is lowered"):
        asked(again, TINY)


def timed(shape: Shape, ms: float, gmac: float, name: str = "") -> Timed:
    return Timed(
        name=name,
        shape=shape,
        parameters=1,
        gmac=gmac,
        size_bytes=1,
        latency_ms_p50=ms,
        latency_ms_p90=ms,
        latency_ms_min=ms,
        runs=1,
        busy="",
    )


def found(*rows: Timed) -> Latencies:
    """`rows` as if they had been measured."""
    machine = Environment(machine="", processor="one", cpus=1, system="", python="", tools={}, started="now")
    return Latencies(
        device="host",
        where=Where.HOST_RUNTIME,
        runtime="executorch",
        target="android",
        threads=1,
        environment=machine,
        rows=rows,
    )


@pytest.mark.parametrize(
    ("budget_ms", "sides"),
    [(0.5, []), (1.0, [16]), (3.0, [32, 16]), (9.0, [48, 32, 16]), (10.0, [48, 32, 16, 64])],
    ids=["none fits", "just in time", "more pixels", "the most computation, not the slowest", "few frames last"],
)
def test_what_fits_a_budget(budget_ms: float, sides: list[int]) -> None:
    one, two, three = (Shape.of(16, side, 0.01) for side in (16, 32, 48))
    few = timed(Shape.of(8, 64, 0.01), 10.0, 1.5)
    times = found(timed(one, 1.0, 0.1), timed(two, 3.0, 0.2), timed(three, 8.0, 0.9), few)
    assert [row.shape.side for row in times.within(budget_ms)] == sides


def test_the_grid_is_every_combination() -> None:
    shapes = grid((8, 16), (56, 112), (0.25,))
    assert [(s.frames, s.side, s.width) for s in shapes] == [
        (8, 56, 0.25),
        (8, 112, 0.25),
        (16, 56, 0.25),
        (16, 112, 0.25),
    ]


def test_the_curve_leaves_out_what_differs_in_more() -> None:
    plain, other = Shape.of(8, 112, 0.25), Shape.of(8, 112, 0.25, "Mixed_4b")
    assert [row.shape for row in found(timed(plain, 1.0, 1.0), timed(other, 1.0, 1.0)).curve] == [plain]
