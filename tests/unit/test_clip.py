"""The preprocessing contract: nothing that changes a pixel is left to chance."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from d3d_edge.clip import ClipSpec, FlowSpec


def test_nothing_that_changes_a_pixel_has_a_default() -> None:
    optional = {name for name, field in ClipSpec.model_fields.items() if not field.is_required()}
    assert optional == {"stride"}, "and stride is refused or demanded according to the sampling"


@pytest.mark.parametrize("left_out", sorted(set(ClipSpec.model_fields) - {"stride"}))
def test_a_spec_with_a_field_left_out_is_refused(clip_data: dict[str, Any], left_out: str) -> None:
    del clip_data[left_out]
    with pytest.raises(ValidationError, match=left_out):
        ClipSpec(**clip_data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": "dense"}, "stride is given for dense sampling"),
        ({"stride": 2}, "stride is given for dense sampling"),
        ({"sampling": "dense", "stride": 0}, "greater than or equal to 1"),
        ({"frames": 0}, "greater than or equal to 1"),
        ({"short_side": 31}, "the crop 32x32 does not fit into a short side of 31"),
        ({"colour": "bgr"}, "rgb"),
        ({"layout": "TCHW"}, "THWC"),
        ({"dtype": "float32"}, "uint8"),
        ({"interpolation": "nearest"}, "area"),
        (
            {"frames": 512, "short_side": 4096, "height": 4096, "width": 4096},
            "a clip of 512x4096x4096x3 has 25769803776 bytes, at most 2147483648 are taken",
        ),
        ({"mean": 0.5}, "Extra inputs"),
    ],
)
def test_a_contradiction_is_refused(clip_data: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClipSpec(**clip_data | change)


def test_a_wide_crop_may_be_wider_than_the_short_side(clip_data: dict[str, Any]) -> None:
    assert ClipSpec(**clip_data | {"height": 40, "width": 64}).shape == (8, 40, 64, 3)


def test_shape_and_frames_needed(clip_data: dict[str, Any]) -> None:
    uniform = ClipSpec(**clip_data)
    dense = ClipSpec(**clip_data | {"sampling": "dense", "stride": 3})
    assert uniform.shape == dense.shape == (8, 32, 32, 3)
    assert uniform.frames_needed == 8
    assert dense.frames_needed == 1 + 7 * 3


def test_every_field_is_part_of_the_hash(clip_data: dict[str, Any]) -> None:
    base = clip_data | {"sampling": "dense", "stride": 3}
    changes: list[dict[str, Any]] = [
        {"frames": 9},
        {"sampling": "uniform", "stride": None},
        {"stride": 2},
        {"short_clips": "repeat_last"},
        {"short_side": 41},
        {"interpolation": "bilinear"},
        {"height": 31},
        {"width": 31},
    ]
    hashes = {ClipSpec(**base | change).hash() for change in [{}, *changes]}
    assert len(hashes) == 1 + len(changes)


@pytest.mark.parametrize("value", [{"method": "dis", "preset": "fast"}, {"method": "farneback"}])
def test_a_flow_spec(value: dict[str, Any]) -> None:
    assert FlowSpec(**value, bound_px=20).bound_px == 20.0


@pytest.mark.parametrize(
    "value",
    [
        {"method": "dis", "bound_px": 20},
        {"method": "farneback", "preset": "fast", "bound_px": 20},
        {"method": "farneback", "bound_px": 0},
        {"method": "farneback", "bound_px": 1e-320},
        {"method": "farneback", "bound_px": 1e308},
        {"method": "farneback", "bound_px": float("inf")},
        {"method": "farneback"},
        {"method": "tvl1", "bound_px": 20},
    ],
)
def test_a_contradictory_flow_spec_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FlowSpec(**value)
