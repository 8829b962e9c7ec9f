"""d3d-edge report: read what was measured before. Measures nothing."""

from __future__ import annotations

from pathlib import Path

import click

from d3d_edge.cli import options


class _PageUnlessNamed(click.Group):
    """A group whose command `page` may be left out: `report RUN --html F` is `report page RUN --html F`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["page", *args]
        return super().parse_args(ctx, args)


@click.group("report", cls=_PageUnlessNamed, subcommand_metavar="SOURCES... --html FILE | COMMAND ...")
def command() -> None:
    """Show and compare what `validate` and `benchmark` left.

    \b
    d3d-edge report run bundles --html out.html
    d3d-edge report page --help
    """


@command.command("page", short_help="One HTML page; the word may be left out.")
@click.argument("sources", nargs=-1, required=True, type=options.PATH)
@click.option("--html", "out", type=options.PATH, required=True, metavar="FILE", help="Where the page goes.")
@click.option(
    "--data",
    type=options.PATH,
    metavar="DIR",
    help="The folder of the clips, for pictures of those whose answer changed. Without it they are listed only.",
)
def page(sources: tuple[Path, ...], out: Path, data: Path | None) -> None:
    """One HTML page of runs, bundles, folders of bundles or report files (SOURCES). `page` may be left out.

    The page stands alone: it loads nothing from elsewhere and runs no script. It is made of the JSON that is there;
    what was not measured is not in it.

    \b
    d3d-edge report run bundles --html out.html --data clips/
    """
    from d3d_edge.pipeline.page import write_page

    pictures = write_page(sources, out, data)
    click.echo(f"wrote {out}" + (f", with pictures of {pictures} clips" if data else ""))
