"""The two presets end to end: they differ in the rows of the table and in nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from graphs import (
    FixedData,
    agent,
    copy_of,
    fit,
    graph,
    new_network,
    parts_changed,
    random_batch,
    spread,
    store,
    transfer,
)
from preset_graphs import TABLE
from torch import Tensor
from wide_cartpole import WIDE

from cdrl_pl.presets import PRESETS, Preset, PresetOverrides
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.types import join

# The presets, end to end

ROWS = {
    # row of the specification's section 6: fields
    "alignment activations": ["activation"],
    "alignment KL": ["alignment_kl"],
    "tau in the alignment": ["use_temperature"],
    "reduction of the KLs": ["kl_reduction"],
    "teacher's LSTM state": ["teacher_state"],
    "distillation step": ["distill_step"],
    "order": ["order"],
    "T1/T2 with a certificated teacher": ["T1", "T2"],
    "stop": ["stop"],
    "rollouts": ["concatenate"],
    "time limit": ["time_limit"],
}


def trained(folder: Path, preset: Preset, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The weights after a run in which every field matters: tau is 2, and 100,000 of a schedule become 1 decision."""
    scaled = {k: v and v // 100_000 for k in ("T1", "T2", "stop") if (v := getattr(preset, k)) is not None}
    monkeypatch.setitem(PRESETS, "paper", replace(preset, **scaled))
    torch.manual_seed(0)
    edge = transfer(T1=None, T2=None, temperature=2.0)
    module = Collaboration({"alpha": agent(WIDE), "beta": agent()}, [edge], T_max=200, log_every=10)
    for i, found in enumerate(module.agents.values()):
        spread(found.network, i)
    if preset.concatenate:  # what the pool does where rollouts are waiting
        batches = [{k: join([v, random_batch(module, 1)[k]]) for k, v in random_batch(module, 0).items()}]
    else:
        batches = [random_batch(module, 0), random_batch(module, 1)]
    fit(module, FixedData(*batches), folder)
    return copy_of(module)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_alone_changes_a_run(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper, code = PRESETS["paper"], PRESETS["code"]
    changed = replace(paper, **{name: getattr(code, name) for name in ROWS[row]})
    assert parts_changed(trained(tmp_path, paper, monkeypatch), trained(tmp_path, changed, monkeypatch))


def test_the_presets_differ_in_the_rows_of_the_table_and_in_nothing_else(tmp_path: Path) -> None:
    """The program's preset with every row put back to the text's trains bit for bit as the text's does."""
    assert sorted(name for names in ROWS.values() for name in names) == sorted(f.name for f in fields(Preset))
    assert list(TABLE) == [name for names in ROWS.values() for name in names]
    paper = PRESETS["paper"]
    back = PresetOverrides(**{f.name: getattr(paper, f.name) for f in fields(PresetOverrides)})
    weights = []
    for preset, overrides in (("paper", None), ("code", back), ("code", None)):
        module = graph(transfer(T1=10, T2=30, stop=90, temperature=2.0), preset=preset, preset_overrides=overrides)
        for i, found in enumerate(module.agents.values()):
            spread(found.network, i)
        fit(module, FixedData(random_batch(module, 0), random_batch(module, 1)), tmp_path)
        weights.append(copy_of(module))
    assert not parts_changed(weights[0], weights[1])
    assert parts_changed(weights[0], weights[2])


# The whole program's preset, end to end


def test_the_programs_reading_trains_and_keeps_the_order_of_its_optimizers(tmp_path: Path) -> None:
    store(tmp_path / "expert", new_network(3, actions=5), WIDE)
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
    module = graph(transfer(T1=20, T2=40), agents=agents, preset="code", T_max=60)
    trainer = fit(module, FixedData(random_batch(module)), tmp_path)
    steps = [max(int(s["step"]) for s in optimizer.state.values()) for optimizer in trainer.optimizers]
    assert steps == [6, 4, 2]  # student, F, distillation
