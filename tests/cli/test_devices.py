"""`--device`: the same bundle here and on a device, through the commands. The SSH server is a real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from d3d_edge.report import Report
from tests.cli.conftest import D3DEdge
from tests.devices import reach


@pytest.fixture
def ssh(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return reach("ssh", request, tmp_path / "device", monkeypatch)[0]


@pytest.mark.slow
def test_validate_here_and_over_ssh_in_one_report(
    made: Path, clips: Path, ssh: str, tmp_path: Path, d3d_edge: D3DEdge
) -> None:
    bundle = made / "bundles" / "jetson"
    words = [
        "validate",
        bundle,
        "--data",
        clips,
        "--out",
        tmp_path,
        "--threads",
        "1",
        "--device",
        "local",
        "--device",
        ssh,
    ]
    done = d3d_edge(*words)
    assert done.code == 0, done.err
    report = Report.read(tmp_path / "report.json")
    here, there = (row for row in report.rows if row.role == "bundle")
    assert (here.name, here.device, there.name, there.device) == ("jetson", "", "jetson on device", ssh)
    # No TensorRT there: the row says what ran, and is no measurement on a Jetson.
    assert here.where == there.where == "host runtime"
    assert there.runtime.startswith(f"{here.runtime} on ")
    assert "its times say nothing of the target's" in done.out.replace("\n", " ")
    # The same file by the same runtime: the same answers, to the last bit of each probability that is kept.
    assert there.answers == here.answers
    assert (there.agreement, there.logit_difference_max) == (here.agreement, here.logit_difference_max)
    assert there.golden_difference_max == here.golden_difference_max
    assert there.samples is not None
    assert len(there.samples.network_ms) == there.latency.runs >= 10
    assert there.samples.memory_peak_bytes > 0
    # Both are held to the gates.
    assert {gate.row for gate in report.gates} == {here.name, there.name}
    again = d3d_edge(*words, "--resume", "--json")
    assert again.code == 0, again.err
    resumed = json.loads(again.out)["rows"][-1]
    assert resumed["samples"] == there.samples.model_dump(mode="json")
    assert resumed["answers"] == there.answers.model_dump(mode="json")


@pytest.mark.slow
def test_benchmark_over_ssh(made: Path, ssh: str, d3d_edge: D3DEdge) -> None:
    bundle = made / "bundles" / "jetson"
    done = d3d_edge("benchmark", bundle, "--runs", 12, "--device", ssh, "--device-runtime", "onnxruntime", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["rows"]
    assert (row["name"], row["device"], row["latency"]["runs"]) == ("jetson on device", ssh, 12)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--device", "ssh:nowhere.invalid"], 7, "ssh:nowhere.invalid cannot be reached"),
        (["--device", "jetson"], 2, "no device can be meant by 'jetson'"),
        (["--device", "ios"], 2, "ios runs none of the bundles, which are for jetson"),
        (["--device", "local", "--device", "adb"], 2, "adb runs none of the bundles"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(
    made: Path, clips: Path, ssh: str, d3d_edge: D3DEdge, words: list[str], code: int, message: str
) -> None:
    for command in (["validate", "--data", clips], ["benchmark"]):
        done = d3d_edge(command[0], made / "bundles" / "jetson", *command[1:], *words)
        assert (done.code, done.out) == (code, "")
        assert message in done.err
        assert len(done.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_device_without_tensorrt_is_refused_where_it_is_asked_for(made: Path, ssh: str, d3d_edge: D3DEdge) -> None:
    done = d3d_edge("benchmark", made / "bundles" / "jetson", "--device", ssh, "--device-runtime", "tensorrt")
    assert done.code == 7
    assert "cannot import tensorrt, which comes with JetPack" in done.err
