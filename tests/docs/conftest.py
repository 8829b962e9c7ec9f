"""The README's commands are tried on the clips that the command-line tests use."""

from tests.cli.conftest import cache, clips

__all__ = ["cache", "clips"]
