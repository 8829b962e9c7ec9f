"""How large a network is, how much it computes, and how much memory its activations take. Measures no time."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d3d_edge.models.s3dg import S3DG

_IN_THE_CONVOLUTION = ("native_batch_norm", "_native_batch_norm_legit_no_training", "relu")
"""Operators that every runtime here makes part of the convolution before them."""


def parameter_count(net: nn.Module) -> int:
    """Trainable scalars of `net`; a frozen batch-norm gamma is not one."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def mac_count(net: S3DG, frames: int, height: int, width: int) -> int:
    """Multiply-accumulates of all convolutions for one clip of `frames` x `height` x `width` pixels.

    The products with padding are counted, and the classifier once, not at each position that slim averages.
    """
    total = 0

    def count(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()

    shapes = _on_meta(net)
    for layer in shapes.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        shapes(_clip(net, frames, height, width))
    return total


def peak_activations(net: S3DG, frames: int, height: int, width: int) -> int:
    """The most values alive at once while one clip of `frames` x `height` x `width` pixels goes through.

    A value lives from the operator that makes it to the last one that reads it; both ends of an operator count while
    it runs, the input clip too. Batch norms and ReLUs belong to the convolution before them, views are free, and padded
    copies and concatenations count. Weights do not, nor what a runtime needs beside: that differs. Times 4 it is bytes
    in float32, times 1 in INT8; a runtime that plans its memory well needs that much, and none much less.
    """
    shapes, clip = _on_meta(net), _clip(net, frames, height, width)
    tape = _Tape(clip, (*shapes.parameters(), *shapes.buffers()))
    with torch.no_grad(), tape:
        shapes(clip)
    return tape.peak()


def int8_weight_bytes(net: nn.Module) -> int:
    """Bytes of the quantized weights: 1 a kernel value; 4 a bias and 4 a scale, one of each per output channel.

    Batch norms are folded, which gives their convolutions a bias. What a file format adds is not counted.
    """
    total = 0
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() + 4 * layer.out_channels * (1 if layer.bias is None else 2)
        if isinstance(layer, nn.BatchNorm2d):
            total += 4 * layer.num_features
    return total


def _on_meta(net: S3DG) -> S3DG:
    """A copy on the meta device, where shapes are worked out and nothing is computed."""
    return deepcopy(net).to("meta").eval()


def _clip(net: S3DG, frames: int, height: int, width: int) -> Tensor:
    clip = torch.empty(frames, net.in_channels, height, width, device="meta")
    return clip.contiguous(memory_format=torch.channels_last)


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records which operator makes and which reads each buffer; a view shares the buffer of what it shows."""

    def __init__(self, clip: Tensor, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Buffers are told apart by where they lie, so none may be freed while the tape runs.
        self._kept: list[Tensor] = [clip, *weights]
        self._weights = {_place(weight) for weight in self._kept[1:]}
        self._buffer = {_place(clip): 0}
        self._values = [clip.numel()]
        self._first, self._last = [0], [0]
        self._step = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._step += 1
        read = [self._buffer[_place(x)] for x in _tensors((args, kwargs)) if _place(x) in self._buffer]
        for buffer in read:
            self._last[buffer] = self._step
        fused = func.__name__.partition(".")[0] in _IN_THE_CONVOLUTION
        # The first output only: the others are indices of a pool and statistics of a batch norm.
        for made in _tensors(output)[:1]:
            if _place(made) in self._buffer or _place(made) in self._weights:
                continue
            self._kept.append(made)
            if fused:
                self._buffer[_place(made)] = read[0]
                continue
            self._buffer[_place(made)] = len(self._values)
            self._values.append(made.numel())
            self._first.append(self._step)
            self._last.append(self._step)
        return output

    def peak(self) -> int:
        """The most values alive in any step."""
        spans = list(zip(self._first, self._last, self._values, strict=True))
        return max(
            sum(values for first, last, values in spans if first <= step <= last) for step in range(self._step + 1)
        )


def _place(tensor: Tensor) -> int:
    # The pointer to the storage itself: on the meta device there is no data to point to.
    return int(tensor.untyped_storage()._cdata)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
