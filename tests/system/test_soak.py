"""The soak of the benchmarks, short: the long one is run by hand (docs/reliability.md has what it said)."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import Soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_fault_31_a_run_in_bad_company_stays_exact_small_and_alone(tmp_path: Path) -> None:
    soak = Soak(tmp_path, seconds=16, kill_every=1.0)
    soak.run()
    assert [what for what, holds in soak.verdicts().items() if not holds] == [], soak.summary()
