"""INT8: the scheme, and torchao's PT2E flow around it.

Importing torchao logs which of its CUDA extensions it could not load, which is nobody's concern here.
"""

import logging

_disabled = logging.root.manager.disable
logging.disable(logging.WARNING)
import torchao.quantization.pt2e  # noqa: E402, F401

logging.disable(_disabled)
