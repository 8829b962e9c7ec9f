"""The words for the machine behind a figure."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import torch

from d3d_edge.pipeline.environment import environment, instructions


@pytest.mark.parametrize(
    ("capabilities", "words"),
    [
        (("sse2",), ()),
        (("sse2", "avx2"), ("AVX2",)),
        (("avx2", "avx_vnni"), ("AVX-VNNI",)),
        (("avx2", "avx512_f"), ("AVX-512",)),
        (("avx2", "avx512_f", "avx512_vnni"), ("AVX-512 VNNI",)),
        (("avx2", "avx512_f", "avx512_vnni", "amx_int8"), ("AVX-512 VNNI", "AMX")),
        (("neon",), ()),
        (("neon", "dot"), ("dot product",)),
        (("neon", "dot", "i8mm", "sme"), ("I8MM", "SME")),
    ],
    ids=str,
)
def test_instructions_that_kernels_are_chosen_by(capabilities: tuple[str, ...], words: tuple[str, ...]) -> None:
    others = dict.fromkeys(("avx512_vnni", "amx_int8", "i8mm"), False) | {"l1d_cache_size": 32768}
    assert instructions(others | dict.fromkeys(capabilities, True)) == words


def test_this_machine_is_named() -> None:
    found = environment(datetime.now(UTC), ())
    assert found.processor
    assert found.instructions == instructions(torch.cpu.get_capabilities())
    assert found.kind.startswith(found.processor)
    assert all(word in found.kind for word in found.instructions)
