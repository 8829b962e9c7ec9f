"""What PyTorch can do for a training on this machine: bfloat16, and torch.compile."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from d3d_edge.distill import distributed
from d3d_edge.errors import MissingDependency, first_line


def knows_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16, as far as PyTorch can tell: of others than x86 it is taken for so."""
    able = torch.cpu.get_capabilities()
    return able.get("architecture") != "x86_64" or any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))


def compile_forward(forward: nn.Module) -> None:
    """Run `forward` through torch.compile from now on; a trial says first whether that works here.

    Evaluation calls the model itself, and so stays as it is: its batches have other shapes, and each would be compiled.
    """
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=distributed.device()))
    except (RuntimeError, ImportError, OSError) as error:
        raise MissingDependency(
            f"torch.compile does not work here: {first_line(error)}",
            hint="it needs a C++ compiler, and Triton for a GPU; or set compile: false in the recipe",
        ) from error
    # It advises to use tensor cores, by a call that is no setting of a recipe; `precision` is the setting.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    forward.compile()
