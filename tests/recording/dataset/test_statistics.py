"""Statistics of features, beside numpy's own over all that was counted."""

from __future__ import annotations

import numpy as np
import pytest

from inferential.recording.dataset.statistics import QUANTILES, Levels, counted, of_rows, sampled


def test_rows_have_the_statistics_of_each_place() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 2, 3))
    found = of_rows(rows)
    np.testing.assert_allclose(found["mean"], rows.mean(axis=0))
    np.testing.assert_allclose(found["std"], rows.std(axis=0))
    assert found["q50"].shape == (2, 3)
    assert found["count"].tolist() == [500]
    for name, share in QUANTILES.items():
        assert ((rows <= found[name]).mean(axis=0) >= share).all()
        assert ((rows < found[name]).mean(axis=0) <= share).all()


def test_quantiles_of_few_rows_lie_within_them() -> None:
    found = of_rows(np.array([[1.0], [2.0]]))
    assert [float(found[name][0]) for name in QUANTILES] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize("images", [1, 5])
def test_levels_are_those_of_all_pixels(images: int) -> None:
    rng = np.random.default_rng(1)
    pixels = [rng.integers(0, 256, (20, 30, 3), np.uint8) // (number + 1) for number in range(images)]
    parts = []
    for one in pixels:
        parts.append(Levels())
        parts[-1].add(one)
    found = Levels.sum_of(parts).statistics()
    everything = np.stack(pixels).reshape(-1, 3) / 255
    assert found["count"].tolist() == [images]
    for name, value in {"mean": everything.mean(0), "std": everything.std(0), "min": everything.min(0)}.items():
        np.testing.assert_allclose(found[name].ravel(), value)
    expected = np.quantile(everything, 0.9, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(found["q90"].ravel(), expected)


def test_of_a_large_image_a_grid_of_pixels_counts() -> None:
    counted = Levels()
    counted.add(np.full((2000, 1000, 3), 51, np.uint8))
    assert counted.statistics()["q50"].ravel().tolist() == [0.2, 0.2, 0.2]


def test_large_frames_have_one_statistic_for_all_places() -> None:
    depth = np.random.default_rng(2).uniform(0.5, 4.0, (50, 48, 64)).astype(np.float32)
    depth[:, 5, :] = np.nan
    depth[:, :, 9] = np.inf
    values = counted(depth)
    assert values.shape[1:] == (1, 1)
    assert 1000 < len(values) <= 8192
    found = of_rows(values)
    assert found["mean"].shape == (1, 1)
    assert 2.1 < found["mean"].item() < 2.4
    assert 0.5 <= found["q01"].item() < 0.7


def test_frames_without_a_number_have_statistics_too() -> None:
    assert of_rows(counted(np.full((3, 48, 64), np.nan)))["max"].tolist() == [[0.0]]
    assert of_rows(sampled(np.full((48, 64), np.inf)))["max"].tolist() == [[[0.0]]]


def test_of_small_frames_everything_counts() -> None:
    rows = np.zeros((5, 7))
    assert counted(rows) is rows
