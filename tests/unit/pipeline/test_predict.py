"""Answers from logits."""

from __future__ import annotations

import numpy as np
import pytest

from d3d_edge.errors import LoweringError
from d3d_edge.pipeline.predict import probabilities


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_have_no_probabilities(wrong: float) -> None:
    with pytest.raises(LoweringError, match="not finite"):
        probabilities(np.array([1.0, wrong], np.float32))
