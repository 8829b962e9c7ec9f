"""Flow as colours: hue is direction, white is rest; the figure has a cell for everything shown."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from d3d_edge.video.flow_figure import Shown, colours_of_flow, figure, wheel


@pytest.mark.parametrize(("x", "y", "degrees"), [(1, 0, 0), (0, 1, 90), (-1, 0, 180), (0, -1, 270), (1, 1, 45)])
@pytest.mark.parametrize("length", [0.0, 0.5, 1.0, 3.0])
def test_hue_is_direction_and_saturation_length(x: float, y: float, degrees: float, length: float) -> None:
    flow = np.full((2, 3, 2), 4.0) * length * np.array([x, y]) / np.hypot(x, y)
    expected = np.multiply(colorsys.hsv_to_rgb(degrees / 360, min(length, 1), 1), 255)
    found = colours_of_flow(flow, largest_px=4.0)
    assert found.shape == (2, 3, 3)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1.01)


def test_the_wheel_shows_the_colour_of_each_direction() -> None:
    colours = wheel(65)
    assert (colours[32, 32] == 255).all(), "no motion in the middle"
    assert (colours[0, 0] == 255).all(), "nothing outside"
    for row, column, flow in ((32, 64, (1, 0)), (64, 32, (0, 1)), (32, 0, (-1, 0)), (0, 32, (0, -1))):
        np.testing.assert_array_equal(colours[row, column], colours_of_flow(np.array([[flow]], float), 1.0)[0, 0])


@pytest.mark.parametrize("shape", [(56, 56), (112, 64), (64, 200)], ids=str)
def test_each_field_stands_in_its_cell(shape: tuple[int, int]) -> None:
    frame = np.full((*shape, 3), 7, np.uint8)
    fields = [np.full((4, 4, 2), (2.0, 0.0)), np.full((4, 4, 2), (0.0, 2.0))]
    titles = [("frame", ""), ("reference", ""), ("a network with a name that is long", "0.1 px")]
    image = figure([Shown("label", frame, fields), Shown("a label too long for its place", frame, fields)], titles, 2.0)
    for colour in ((7, 7, 7), *(colours_of_flow(field, 2.0)[0, 0] for field in fields)):
        area = (image == colour).all(-1).sum()
        # Two rows of cells of at least 128 pixels a side, with the shape of the frame.
        assert area >= 2 * 128 * 128 * max(shape) / min(shape) * 0.98


def test_a_label_is_written_with_its_own_letters_left_of_its_row() -> None:
    frame, field = np.full((56, 56, 3), 7, np.uint8), np.zeros((4, 4, 2))
    images = [figure([Shown(label, frame, [field])], [("frame", ""), ("", "")], 1.0) for label in ("ä", "ö", "")]
    inks = [(image != images[2]).any(-1) for image in images[:2]]
    assert (inks[0] != inks[1]).any(), "question marks"
    first_of_the_frame = (images[2] == 7).all(-1).any(0).argmax()
    assert 0 < max(ink.any(0).nonzero()[0].max() for ink in inks) < first_of_the_frame
