"""The area resize of screens: against the exact mean of what each pixel covers, and against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from games import area_average
from hypothesis import given, settings
from hypothesis import strategies as st

from cdrl_pl.envs.pictures import area_weights, resize


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def resized(frame: np.ndarray, size: tuple[int, int], crop: tuple[int, int] | None = None) -> np.ndarray:
    out = np.zeros((1, *size), np.uint8)
    resize(frame, crop, out)
    return out[0]


sides = st.integers(1, 60)


@given(sides, sides, sides, sides, st.integers(0, 99))
@settings(deadline=None)
def test_every_pixel_is_the_mean_of_the_area_it_covers(h: int, w: int, H: int, W: int, seed: int) -> None:
    """Shrinking or growing, whatever the sides have in common."""
    frame = noise((h, w), seed)
    assert np.abs(resized(frame, (H, W)) - area_average(frame, (H, W))).max() <= 0.501  # rounded to whole greys


@pytest.mark.parametrize("shape", [(210, 160), (250, 160), (160, 160), (97, 101), (84, 84), (42, 42)])
@pytest.mark.parametrize("size", [42, 84])
def test_images_shrink_as_by_opencv(shape: tuple[int, int], size: int) -> None:
    frame = noise(shape)
    expected = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(resized(frame, (size, size)) - expected).max() <= 1


@given(st.integers(0, 255), sides, sides)
@settings(deadline=None)
def test_one_colour_stays_itself(grey: int, side: int, size: int) -> None:
    assert (resized(np.full((side, side), grey, np.uint8), (size, size)) == grey).all()


def test_no_change_of_size_changes_nothing() -> None:
    np.testing.assert_array_equal(resized(noise((42, 42)), (42, 42)), noise((42, 42)))


def test_rows_are_cropped_first() -> None:
    frame = noise((210, 160))
    np.testing.assert_array_equal(resized(frame, (42, 42), (34, 194)), resized(frame[34:194], (42, 42)))


def test_memory_that_is_not_contiguous_is_read_and_written() -> None:
    frame, out = noise((160, 210)).T, np.zeros((1, 42, 84), np.uint8)[:, :, ::2]
    resize(frame, None, out)
    np.testing.assert_array_equal(out[0], resized(np.ascontiguousarray(frame), (42, 42)))


@given(st.integers(1, 300), st.integers(1, 90))
def test_weights_of_a_pixel_sum_to_one_and_no_source_is_lost(source: int, target: int) -> None:
    weights = area_weights(source, target)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-5)
    np.testing.assert_allclose(weights.sum(0), target / source, atol=1e-5)
