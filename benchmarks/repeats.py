"""Whether times that must be the same are called the same: `d3d-edge benchmark` several times, each with each.

python -m benchmarks.repeats bundles/android bundles/jetson --times 8 --out repeats
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from d3d_edge.harness.comparison import compare
from d3d_edge.report import Report


def main() -> None:
    """Time, compare every pair both ways, and print how often each verdict came out, and how far medians lie apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--times", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the reports; those in it are not made again"
    )
    given = parser.parse_args()
    reports = []
    for number in range(given.times):
        path = given.out / f"{number}.json"
        if not path.exists():
            words = ["benchmark", *map(str, given.bundles), "--threads", str(given.threads), "--out", str(path)]
            subprocess.run([sys.executable, "-m", "d3d_edge", *words], check=True, stdout=subprocess.DEVNULL)
        reports.append(Report.read(path))
    print(json.dumps(verdicts(reports), indent=2))


def verdicts(reports: list[Report]) -> dict[str, dict[str, object]]:
    """By row: how often each verdict on the time came out, the medians, and how many reports are marked as busy."""
    found: dict[str, dict[str, object]] = {}
    counts: dict[str, Counter[str]] = {}
    for before, after in itertools.permutations(reports, 2):
        for change in compare(before, after).changes:
            if change.figure == "latency_ms_p50":
                counts.setdefault(change.row, Counter())[change.verdict] += 1
    for name, count in counts.items():
        timed = [row.latency for report in reports for row in report.rows if row.name == name and row.latency]
        found[name] = {
            "verdicts": dict(count),
            "latency_ms_p50": [round(latency.latency_ms_p50, 3) for latency in timed],
            "marked as busy": sum(bool(latency.busy) for latency in timed),
        }
    return found


if __name__ == "__main__":
    main()
