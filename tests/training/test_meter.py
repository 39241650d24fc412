"""What is kept between two log lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdrl_pl.training.meter import Meter


def test_means_and_sums_by_name() -> None:
    make = np.random.default_rng(0)
    scalars, vectors = make.normal(size=100), make.normal(size=(100, 3))
    meter = Meter()
    for scalar, vector in zip(scalars, vectors, strict=True):
        meter.add("scalar", float(scalar))
        meter.add("vector", torch.from_numpy(vector))
        meter.count("sum", float(scalar))
    found = meter.flush()
    assert found.pop("sum") == pytest.approx(scalars.sum())
    expected = [scalars.mean(), *vectors.mean(0)]
    assert list(found.values()) == pytest.approx(expected, abs=1e-5) and list(found) == ["scalar", *_indexed("vector")]
    assert meter.flush() == {}


def _indexed(name: str) -> list[str]:
    return [f"{name}/{i}" for i in range(3)]


def test_what_is_kept_does_not_grow_with_the_run() -> None:
    meter = Meter()

    def kept() -> int:
        return sum(value.numel() for value in vars(meter)["_totals"].values()) + len(vars(meter))

    for i in range(1000):
        meter.add("vector", torch.ones(6))
        if i == 0:
            first = kept()
    assert kept() == first


def test_adding_changes_no_value_that_was_given() -> None:
    meter, value = Meter(), torch.ones(2)
    for _ in range(3):
        meter.add("x", value)
    assert value.tolist() == [1.0, 1.0] and meter.flush() == {"x/0": 1.0, "x/1": 1.0}
