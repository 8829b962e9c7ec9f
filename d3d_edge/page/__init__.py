"""The report as one HTML page: a pure function of the JSON that runs and bundles hold. Measures and decodes nothing.

material.py   what lies on disk
views.py      what the template shows of it
words.py      figures as words
svg.py        elements and axes
charts.py     the charts
curves.py     the curve of latency of `d3d-edge models`, an SVG file of its own
report.html   the page; style.css: its looks
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from d3d_edge import __version__
from d3d_edge.page import charts, views, words
from d3d_edge.page.material import Material

_FOLDER = Path(__file__).parent


def render(material: Material, pictures: Mapping[str, str] | None = None) -> str:
    """The page: HTML that loads nothing and runs no script.

    `pictures`: by a clip's key, an image as a data URI.
    """
    return _template().render(
        material=material,
        reports=[views.ReportView(report) for report in material.reports],
        head=views.Head(material),
        pictures=pictures or {},
        charts=charts,
        LISTED=views.LISTED,
        style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
        version=__version__,
    )


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    return environment.get_template("report.html")
