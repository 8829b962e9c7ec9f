"""What is deployed: a network that takes the bytes of decoded frames. It resizes and crops nothing."""

import torch
from torch import Tensor, nn

from d3d_edge.models.s3dg import S3DG

SCALE = 1 / 128
OFFSET = -127.5 / 128
"""Bytes to +-255/256. Not the usual [-1, 1]: both constants, and all 256 results, are exact in float16, which Core ML
computes in, so every runtime quantizes the same numbers."""


class Recogniser(nn.Module):
    """`net` behind its own normalisation, x * SCALE + OFFSET, for a fixed number of clips.

    Keep the weights in PyTorch's default memory format: XNNPACK lowering refuses channels-last weights. The
    activations are channels-last because the input is.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, net: S3DG, clips: int = 1) -> None:
        super().__init__()
        self.net = net
        self.clips = clips
        for name, value in (("scale", SCALE), ("offset", OFFSET)):
            # Not in the state dict: a recogniser's weights are its network's, and nothing else.
            self.register_buffer(name, torch.full((1, 1, 1, 1), value), persistent=False)

    def forward(self, clip: Tensor) -> Tensor:
        """Uint8 [N*T, H, W, C], for N = `clips`, to logits, float [N, classes]."""
        x = clip.to(self.scale.dtype) * self.scale + self.offset
        logits: Tensor = self.net(x.permute(0, 3, 1, 2), self.clips)
        return logits
