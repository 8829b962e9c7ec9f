"""Ranges found in histograms: the share of the values that a plan keeps, and the range with least squared error.

Both beat the extremes where a few values lie far out: every step of the grid is then spent on values that occur.
Knows no network.
"""

from __future__ import annotations

from d3d_edge.quantize import torchao_unlogged  # noqa: F401

# isort: split
from typing import Any

import torch
from torch import Tensor
from torchao.quantization.pt2e import HistogramObserver
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase

from d3d_edge.quantize.observer import Grouped, Portable, refuse_no_number

CANDIDATES = 100
"""Ends tried for a symmetric range, from a hundredth of the extreme to the extreme itself."""
CANDIDATES_OF_AN_END = 20
"""Of each end of a range that is not symmetric, since every pair is tried."""


class _Distinct:
    """Knows a tensor that is the one before, rearranged: the same values, which are counted once."""

    _last: Tensor | None = None

    def is_repeated(self, x: Tensor) -> bool:
        """Whether `x` is a view of the tensor of the call before."""
        last = self._last
        # Kept alive until the next call, lest another tensor takes its place in memory.
        self._last = x.detach()
        return last is not None and last.data_ptr() == x.data_ptr() and last.numel() == x.numel()


class _PercentileBase(UniformQuantizationObserverBase, Grouped, _Distinct):  # type: ignore[misc]
    """A histogram for every tensor of a group."""

    def __init__(self, percentile: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.percentile = percentile
        self._settings = settings
        self._members: dict[int, HistogramObserver] = {}
        self._seen = 0

    def forward(self, x: Tensor) -> Tensor:
        """Take note of the values of `x`, any shape. Returns `x`."""
        if not self.is_repeated(x):
            refuse_no_number(x)
            if self._seen not in self._members:
                self._members[self._seen] = HistogramObserver(**self._settings)
            self._members[self._seen](x)
        self._seen = (self._seen + 1) % self.uses
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point."""
        symmetric = self.qscheme == torch.per_tensor_symmetric
        ends = [
            percentile_range(*_bins(member), self.percentile, symmetric=symmetric) for member in self._members.values()
        ]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        scale_and_zero_point: tuple[Tensor, Tensor] = self._calculate_qparams(torch.tensor(low), torch.tensor(high))
        return scale_and_zero_point


class GroupPercentile(Portable, _PercentileBase):
    """The range that holds a share of the values; of tensors that share one scale, the widest of their ranges.

    A share of all their values together would be that of the largest tensor: from a narrow branch with wide values,
    whole channels could be cut off.
    """


class _LeastSquaresBase(HistogramObserver, _Distinct):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """Take note of the values of `x`, any shape. Returns `x`."""
        if not self.is_repeated(x):
            refuse_no_number(x)
            super().forward(x)
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point."""
        symmetric = self.qscheme == torch.per_tensor_symmetric
        low, high = least_squares_range(*_bins(self), symmetric=symmetric)
        scale_and_zero_point: tuple[Tensor, Tensor] = self._calculate_qparams(torch.tensor(low), torch.tensor(high))
        return scale_and_zero_point


class LeastSquares(Portable, _LeastSquaresBase):
    """The range whose grid has the least squared error, over all values of the tensors that share it.

    torchao's histogram observer looks for the same, but assumes a grid from end to end: in the symmetric scheme half of
    that grid is unused after a ReLU, so it takes the steps for half as long as they are. And it stops at the first
    range that is worse than the one before.
    """


def _bins(histogram: HistogramObserver) -> tuple[Tensor, Tensor]:
    """Middles of the bins and how many values each holds, float64 [bins]."""
    counts = histogram.histogram.double()
    low, high = histogram.min_val.double(), histogram.max_val.double()
    width = (high - low) / len(counts)
    return low + width * (torch.arange(len(counts), dtype=torch.float64) + 0.5), counts


def percentile_range(middles: Tensor, counts: Tensor, percentile: float, *, symmetric: bool) -> tuple[float, float]:
    """Ends, low and high, of the range that holds `percentile` % of the values.

    `symmetric`: of the magnitudes. Else half of what is left out lies below, half above. To within a bin.
    """
    width = float(middles[1] - middles[0])
    if symmetric:
        magnitudes, order = middles.abs().sort()
        end = _quantile(magnitudes, counts[order], percentile / 100) + width / 2
        return -end, end
    tail = (1 - percentile / 100) / 2
    low = -_quantile(-middles.flip(0), counts.flip(0), 1 - tail) - width / 2
    return low, _quantile(middles, counts, 1 - tail) + width / 2


def _quantile(values: Tensor, counts: Tensor, share: float) -> float:
    """The first of the rising `values` up to which at least `share` of all counts lies."""
    below = counts.cumsum(0)
    place = int(torch.searchsorted(below, share * below[-1]))
    return float(values[min(place, len(values) - 1)])


def least_squares_range(middles: Tensor, counts: Tensor, *, symmetric: bool) -> tuple[float, float]:
    """Ends, low and high, of the range on whose 8-bit grid the values are rounded with the least squared error."""
    low, high = min(float(middles[0]), 0.0), max(float(middles[-1]), 0.0)
    if symmetric:
        ends = max(-low, high) * torch.linspace(1 / CANDIDATES, 1, CANDIDATES, dtype=torch.float64)
        pairs, steps = torch.stack([-ends, ends], 1), ends / 127
    else:
        shares = torch.linspace(1 / CANDIDATES_OF_AN_END, 1, CANDIDATES_OF_AN_END, dtype=torch.float64)
        pairs = torch.cartesian_prod(low * shares, high * shares)
        steps = (pairs[:, 1] - pairs[:, 0]) / 255
    steps = steps.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    rounded = (middles / steps).round() * steps
    error = ((rounded.clamp(pairs[:, :1], pairs[:, 1:]) - middles).square() * counts).sum(1)
    # The last of equally good ones: the widest.
    best = len(error) - 1 - int(error.flip(0).argmin())
    return float(pairs[best, 0]), float(pairs[best, 1])
