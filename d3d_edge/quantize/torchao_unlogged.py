"""Imports torchao without its log; to be imported before it. Chooses nothing of it.

It logs which of its CUDA extensions it could not load, which is nobody's concern here. What reads a graph, without
making one INT8, does without torchao: it imports torch.compile, and with it takes longer to import than torch.
"""

import logging

_disabled = logging.root.manager.disable
logging.disable(logging.WARNING)
import torchao.quantization.pt2e  # noqa: E402, F401

logging.disable(_disabled)
