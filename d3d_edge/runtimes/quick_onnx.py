"""Writes ONNX in half the time, by the same exporter. Changes nothing of what is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patterns_tried_where_they_begin() -> Iterator[None]:
    """Look for a pattern of several outputs only at operators that its first output can be.

    onnxscript 0.7's optimiser lists all operators of the graph for each operator and such pattern before it looks at
    the one at hand, which was two thirds of the time to write an INT8 student.
    """
    from onnxscript.rewriter._basics import MatchResult
    from onnxscript.rewriter._matcher import SimplePatternMatcher

    matcher: Any = SimplePatternMatcher
    match = matcher.match

    def tried(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        if not self.pattern.has_single_output_node:
            first = self.pattern.output_nodes[0].op_identifier()
            if first is not None and first[:2] != node.op_identifier()[:2]:
                return MatchResult().fail("another operator")
        return match(self, model, graph, node, **options)

    matcher.match = tried
    try:
        yield
    finally:
        matcher.match = match
