"""INT8: the scheme, and torchao's PT2E flow around it."""
