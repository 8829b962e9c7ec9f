"""As many processors as the limits of a container are worth, and no more than there are."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from d3d_edge import processors

HERE = "0::/"
BELOW = "0::/kubepods/pod1/box"
FIRST = "7:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n0::/"


def first(group: str, quota: str) -> dict[str, str]:
    """The files of a group in version 1."""
    files = {"quota": quota, "period": "100000"}
    return {f"cpu,cpuacct/{group}/cpu.cfs_{name}_us": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        pytest.param(HERE, {"cpu.max": "200000 100000"}, 2.0, id="a container that sees its own group"),
        pytest.param(HERE, {"cpu.max": "max 100000"}, math.inf, id="no limit"),
        pytest.param(BELOW, {"kubepods/pod1/cpu.max": "150000 100000"}, 1.5, id="of a group that its own is in"),
        pytest.param(
            BELOW,
            {"kubepods/pod1/box/cpu.max": "400000 100000", "kubepods/cpu.max": "300000 100000"},
            3.0,
            id="the smallest",
        ),
        pytest.param(FIRST, first("docker/1f", "50000"), 0.5, id="version 1"),
        pytest.param(FIRST, first(".", "250000"), 2.5, id="version 1 in a container"),
        pytest.param(FIRST, first(".", "-1"), math.inf, id="version 1 without a limit"),
        pytest.param(FIRST, {"memory/docker/1f/cpu.max": "1 100000"}, math.inf, id="of another controller"),
        pytest.param(HERE, {"cpu.max": "many"}, math.inf, id="not understood"),
        pytest.param(HERE, {}, math.inf, id="no control groups"),
    ],
)
def test_the_limit_of_a_container(membership: str, files: dict[str, str], expected: float, tmp_path: Path) -> None:
    (tmp_path / "membership").write_text(membership + "\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert processors.limit(tmp_path / "cgroup", tmp_path / "membership") == expected


def test_a_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert processors.limit(tmp_path, tmp_path / "membership") == math.inf


@pytest.mark.parametrize(("limit", "expected"), [(math.inf, 4), (9.0, 4), (2.5, 3), (0.1, 1)])
def test_no_more_processors_than_there_are(limit: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "limit", lambda: limit)
    monkeypatch.setattr(processors, "visible", lambda: 4)
    assert processors.cpus() == expected


@pytest.mark.parametrize(("visible", "given", "threads"), [(8, "", "2"), (2, "", "None"), (8, "5", "5")])
def test_the_command_line_starts_as_many_threads_as_it_is_given_processors(
    visible: int, given: str, threads: str
) -> None:
    code = f"""
import os
from d3d_edge import cli
cli.visible, cli.cpus = lambda: {visible}, lambda: 2
try:
    cli.main(["--version"])
finally:
    print(os.environ.get("OMP_NUM_THREADS"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if given:
        environment["OMP_NUM_THREADS"] = given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == threads
