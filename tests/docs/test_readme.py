"""The README's commands run, in its order, and its table is what `d3d-edge demo` would print of those figures."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from d3d_edge.cli.tables import text_of
from d3d_edge.report import Gate, Pair, Paired, Report, Row
from d3d_edge.runner import Where
from tests.cli.conftest import TINY, D3DEdge
from tests.unit.page import samples

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]


ALL = [command for block in BLOCKS for command in commands(block)]


def test_every_command_is_of_a_kind_that_is_tried_here() -> None:
    assert {command[0] for command in ALL} == {"make", "pip", "d3d-edge"}


@pytest.mark.parametrize("target", [command[1] for command in ALL if command[0] == "make"])
def test_make_targets_exist(target: str) -> None:
    # Run whole by the continuous integration; here, that make knows what to do.
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in ALL if command[0] == "pip"], ids=" ".join)
def test_pip_can_resolve_what_it_is_told_to_install(command: list[str]) -> None:
    dry = [sys.executable, "-m", "pip", *command[1:], "--dry-run", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


FINISHED = {"distill": "finished before", "quantize": "finished before", "export": "exported before"}
"""What the commands that take long say of what is there."""


@pytest.mark.slow
def test_the_commands_by_hand(
    made: Path, clips: Path, cache: Path, d3d_edge: D3DEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder and in their order. What takes long was done by the same commands in `made`, and is found again."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.copytree(clips, tmp_path / "clips")
    listed = tmp_path / "run" / "data.csv"
    listed.write_text(listed.read_text().replace(str(clips), str(tmp_path / "clips")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D3D_EDGE_CACHE", str(cache))
    for _, *words in [command for command in ALL if command[0] == "d3d-edge"]:
        if words[0] == "predict":
            # The set that the run was trained on has no class of that name.
            video = tmp_path / words[2]
            video.parent.mkdir()
            shutil.copyfile(next(clips.rglob("*.mp4")), video)
        done = d3d_edge(*words)
        assert done.code == 0, f"{' '.join(words)}: {done.err}"
        assert FINISHED.get(words[0], "") in done.err
        if words[:2] == ["recipes", "cp"]:
            # From here on the smaller network with the fewer epochs of `made`.
            (tmp_path / words[3]).write_text(TINY)


TABLE = re.search(r"^<!-- demo table -->\n```text\n(.*?)^```\n<!-- end of demo table -->", README, re.M | re.S)[1]  # type: ignore[index]
WHERE = {"interpreter": Where.REFERENCE_INTERPRETER} | {str(where): where for where in Where}
ROW = re.compile(rf"^ (.+?) +({'|'.join(WHERE)}) +(.+)$", re.MULTILINE)
PAIR = re.compile(r"^ (\w+) and (\w+) +([\d.]+)% +([\d.]+)$", re.MULTILINE)
GATE = re.compile(
    r"gate (\w+) (\S+) of ([\w, ]+): (\w+), (\S+) \((\S+) to (\S+) by (\d+) clips\): about (\d+) like them would tell"
)


def test_the_demo_table_is_what_the_demo_would_print_of_its_figures() -> None:
    assert text_of(demo_report(), width=80).splitlines() == TABLE.splitlines()


def demo_report() -> Report:
    """The report that the table tells of, read from the table."""
    flat = " ".join(TABLE.split())
    title, classes, clips = re.findall(r"^(\w+): (\d+) classes, (\d+) test clips, chance 10.0%$", TABLE, re.M)[0]
    found = {name: row_of(name, WHERE[where], cells.split(), int(clips)) for name, where, cells in ROW.findall(TABLE)}
    gates = [gate for words in GATE.findall(flat) for gate in gates_of(*words)]
    passed, all_gates = map(int, re.findall(r"(\d+) of (\d+) gates pass", flat)[0])
    assert len(gates) + passed == all_gates
    gates += [Gate(name="size_bytes_max", row=str(n), bound=1, value=0, verdict="pass") for n in range(passed)]
    pairs = [
        Pair(
            first=first, second=second, clips=int(clips), agreement=float(same) / 100, logit_difference_max=float(diff)
        )
        for first, second, same, diff in PAIR.findall(TABLE)
    ]
    processor = re.findall(r"on this machine \((.+?)\), not", flat)[0]
    return Report(
        title=title,
        classes=int(classes),
        split="test",
        chance=0.1,
        environment=samples.ENVIRONMENT.model_copy(update={"processor": processor}),
        rows=tuple(found.values()),
        pairs=tuple(pairs),
        gates=tuple(gates),
    )


def row_of(name: str, where: Where, cells: list[str], clips: int) -> Row:
    top1, interval, flips, agree, diff, size, p50, p90 = (None if cell == "-" else cell for cell in cells)
    known: dict[str, Any] = {"top1": share(top1), "agreement": share(agree)}
    if interval:
        known["top1_low"], known["top1_high"] = (share(end) for end in interval.split("-"))
    if flips:
        gained, lost = map(int, flips[1:].split("-"))
        known["paired"] = Paired(
            gained=gained,
            lost=lost,
            difference_points=0.0,
            difference_points_low=0.0,
            difference_points_high=0.0,
            mcnemar_p=1.0,
            flipped=(),
        )
    if diff:
        known["logit_difference_max"] = float(diff)
        known["logit_step"] = float(re.findall(r"moves a logit by at most (\S+)", TABLE)[0])
    if size:
        known["size_bytes"] = round(1e6 * float(size))
    if p50 and p90:
        times = {"latency_ms_p50": float(p50), "latency_ms_p90": float(p90), "threads": 0, "busy": ""}
        known["latency"] = samples.latency().model_copy(update=times)
    runtime = re.findall(rf"\b{name} by ([a-z]+ [\d.]+(?: \(\w+\))?)", " ".join(TABLE.split()))
    return Row(
        name=name,
        role="baseline" if where is Where.HOST_TORCH else "bundle",
        precision="int8",
        where=where,
        clips=clips,
        runtime="".join(runtime),
        **known,
    )


def share(text: str | None) -> float | None:
    return float(text.rstrip("%")) / 100 if text else None


def gates_of(name: str, bound: str, rows: str, verdict: Any, *figures: str) -> list[Gate]:
    value, low, high, clips, needed = map(float, figures)
    return [
        Gate(
            name=name,
            row=row,
            bound=float(bound),
            value=value,
            low=low,
            high=high,
            clips=int(clips),
            clips_needed=int(needed),
            verdict=verdict,
        )
        for row in rows.split(", ")
    ]


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
