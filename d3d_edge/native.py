"""What native libraries write to standard error past Python, kept off the terminal."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def notes() -> Iterator[list[str]]:
    """Yield a list of the lines that the block writes to standard error, filled when it is left.

    What other threads write meanwhile is taken with it: for blocks in which none has anything to say.
    """
    sys.stderr.flush()
    lines: list[str] = []
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, redirect_stderr(io.StringIO()) as printed:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += [*file.read().decode(errors="replace").splitlines(), *printed.getvalue().splitlines()]
