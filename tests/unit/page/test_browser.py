"""The page in a real browser, at the width of a desk and of a phone: nothing overflows, and nothing is complained of.

One start of Chromium shows all pages, each in a frame of its own width. The picture of them is kept in the folder
$D3D_EDGE_SCREENSHOTS, or in the folder of this test run.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from d3d_edge import page
from d3d_edge.page.material import Material
from tests.unit.page import samples

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")

DESK_PX, PHONE_PX = 1280, 360
# What the checks must find, or they would find nothing: too wide, and an error on the console.
CONTROL = """<!doctype html><div style='width:2000px'>wide</div>
<svg class=chart width=9 height=9><text>cut</text></svg><script>console.error('the control')</script>"""


class Seen(NamedTuple):
    """What the browser says of a page."""

    scroll_px: int
    client_px: int
    boxes: int
    """Elements that scroll inside."""
    cut: list[str]
    """Words of charts that reach beyond their chart."""
    covered: int
    """Tables whose first column, which stays in its place, leaves less than a third to the others."""


class Shown(NamedTuple):
    """All pages, and what was logged."""

    pages: dict[str, Seen]
    console: list[str]
    screenshot: Path


def frames() -> dict[str, tuple[int, str]]:
    """Pages by name, with the width they are shown at."""
    rich = page.render(
        Material(reports=[samples.report()]), {f"{samples.NASTY}/c1.mp4": "data:image/gif;base64,R0lGODlhAQABAAAAACw="}
    )
    large = page.render(Material(reports=[samples.large(30)]))
    pages = {"rich": rich, "large": large, "empty": page.render(Material())}
    pages |= {
        "many": page.render(Material(reports=[samples.large(120)])),
        "long": page.render(Material(reports=[samples.long_names()])),
        "two": page.render(Material(reports=[samples.report(rows=samples.far_apart())])),
        "capitals": page.render(Material(reports=[samples.large(12, "SWING_WHEEL_{:02}")])),
        "widest": page.render(Material(reports=[samples.large(12, "{:02}" + 16 * "W")])),
        "one class": page.render(Material(reports=[samples.large(1)])),
    }
    widths = {"desk": DESK_PX, "phone": PHONE_PX}
    found = {f"{name} {device}": (px, text) for name, text in pages.items() for device, px in widths.items()}
    return found | {"control": (PHONE_PX, CONTROL)}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("browser")
    kept = Path(os.environ.get("D3D_EDGE_SCREENSHOTS", folder))
    kept.mkdir(parents=True, exist_ok=True)
    (folder / "frames.html").write_text(_frames_page(), encoding="utf-8")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
    command += [
        "--no-first-run",
        "--disable-background-networking",
        "--enable-logging=stderr",
        "--disable-dev-shm-usage",
    ]
    command += [
        "--window-size=12000,6000",
        f"--user-data-dir={folder / 'profile'}",
        f"--screenshot={kept / 'page.png'}",
    ]
    done = subprocess.run(
        [*command, (folder / "frames.html").as_uri()], capture_output=True, text=True, check=False, timeout=300
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    pages = {name: Seen(*values) for name, values in json.loads(html.unescape(found[1])).items()}
    console = re.findall(r"CONSOLE[^]]*\] (.*)", done.stderr)
    return Shown(pages, console, kept / "page.png")


def _frames_page() -> str:
    """All pages side by side, and a script that measures them. A frame's page is as wide as a window of that width."""
    shown = "".join(
        f'<iframe title="{name}" style="width:{px}px;height:6000px;border:0" srcdoc="{html.escape(text)}"></iframe>'
        for name, (px, text) in frames().items()
    )
    measure = """onload = () => {
      const found = {}
      for (const frame of document.querySelectorAll("iframe")) {
        const root = frame.contentDocument.documentElement
        const inside = [...root.querySelectorAll("*")].filter(e => getComputedStyle(e).overflowX == "auto")
        const scrolled = inside.filter(e => e.scrollWidth > e.clientWidth)
        const cut = [...root.querySelectorAll("svg.chart text")].filter(text => {
          const [own, whole] = [text, text.closest("svg")].map(e => e.getBoundingClientRect())
          return own.width && (own.left < whole.left - 1 || own.right > whole.right + 1)
        })
        const covered = [...root.querySelectorAll("table")].filter(table => {
          const first = table.querySelector("tbody th")
          const stays = first && getComputedStyle(first).position == "sticky"
          return stays && first.offsetWidth > table.parentElement.clientWidth * 2 / 3
        })
        const words = cut.map(text => text.textContent)
        found[frame.title] = [root.scrollWidth, root.clientWidth, scrolled.length, words, covered.length]
      }
      document.querySelector("pre").textContent = JSON.stringify(found)
    }"""
    style = "body{margin:0;display:flex}iframe{flex:none}"
    head = f"<!doctype html><meta charset=utf-8><style>{style}</style>"
    return f"{head}{shown}<pre id=found></pre><script>{measure}</script>"


@pytest.mark.parametrize("name", [name for name in frames() if name != "control"])
def test_no_page_is_wider_than_its_window(shown: Shown, name: str) -> None:
    seen = shown.pages[name]
    assert seen.client_px == frames()[name][0]
    assert seen.scroll_px <= seen.client_px


@pytest.mark.parametrize("name", [name for name in frames() if name != "control"])
def test_nothing_is_cut_off_or_covered(shown: Shown, name: str) -> None:
    assert (shown.pages[name].cut, shown.pages[name].covered) == ([], 0)


def test_wide_tables_scroll_in_their_box(shown: Shown) -> None:
    assert shown.pages["rich phone"].boxes > 0
    assert shown.pages["large phone"].boxes > 0


def test_the_console_has_no_word_of_any_page(shown: Shown) -> None:
    assert len(shown.console) == 1, shown.console
    assert "the control" in shown.console[0]


def test_the_checks_can_fail(shown: Shown) -> None:
    assert shown.pages["control"].scroll_px > PHONE_PX
    assert shown.pages["control"].cut == ["cut"]


def test_a_screenshot_is_kept(shown: Shown) -> None:
    assert shown.screenshot.read_bytes().startswith(b"\x89PNG")
