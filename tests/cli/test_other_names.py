"""Options by the names that they had in version 0.1, or have in other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import pytest
from command_line import edge, pole, tiny, write

from cdrl_pl.cli.options import ELSEWHERE, SHORT

run, refused = command_line.run, command_line.refused
Refused = Callable[..., str]


def full() -> dict[str, Any]:
    return tiny(transfers=[edge(alarm={})], alpha=pole(), beta=pole())


@pytest.mark.parametrize(
    ("where", "old", "now"),
    [
        ("model", {"reading": {"distill_step": "joint"}}, "model.reading.distill_step is now called "
         "model.preset_overrides.distill_step"),
        ("model", {"reading": "paper"}, "model.reading is now called model.preset_overrides"),
        ("model", {"advice": "random"}, "model.advice is now called model.control, and its value 'teacher' is 'none'"),
        ("model.transfers.0", {"advice": "teacher"}, "advice is now called control, and its value 'teacher' is 'none'"),
        ("model.transfers.0.alarm", {"memory": 3}, "alarm: memory is now called span"),
        ("model.agents.beta", {"teacher_weights": {"memory": 3}}, "teacher_weights.memory is now called "
         "teacher_weights.span"),
    ],
)  # fmt: skip
def test_an_option_of_version_0_1_in_a_config_names_the_one_of_today(
    where: str, old: dict[str, Any], now: str, refused: Refused, tmp_path: Path
) -> None:
    config = full()
    inner: Any = config
    for key in where.split("."):
        inner = inner[int(key) if key.isdigit() else key]
    inner.update(old)
    assert refused("--config", write(tmp_path / "tiny.yaml", config)).endswith(now)


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("--model.reading=code", "--model.reading is now called --model.preset_overrides"),
        ("--model.reading.distill_step=joint", "--model.reading.distill_step is now called "
         "--model.preset_overrides.distill_step"),
        ("--model.advice=own", "--model.advice is now called --model.control, and its value 'teacher' is 'none'"),
        ("--advice=own", "--advice is now called --model.control, and its value 'teacher' is 'none'"),
        ("--model.agents.beta.teacher_weights.memory=3", "model.agents: teacher_weights.memory is now called "
         "teacher_weights.span"),
    ],
)  # fmt: skip
def test_an_option_of_version_0_1_on_the_command_line_names_the_one_of_today(
    old: str, now: str, refused: Refused, tmp_path: Path
) -> None:
    assert refused("--config", write(tmp_path / "tiny.yaml", full()), old) == now


LEARNER = "--model.agents.NAME.learner"


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("--learning_rate", f"{LEARNER}.lr"),
        ("--learning-rate", f"{LEARNER}.lr"),
        ("--lr", f"{LEARNER}.lr"),
        ("--gamma", f"{LEARNER}.gamma"),
        ("--gae-lambda", f"{LEARNER}.lam"),
        ("--ent_coef", f"{LEARNER}.entropy_coef"),
        ("--batch_size", "--data.pool.steps times --copies"),
        ("--n_envs", "--workers times --copies"),
        ("--num_envs", "--workers times --copies"),
        ("--total_timesteps", "--T_max (decisions)"),
        ("--max_epochs", "--T_max (decisions)"),
        ("--env_id", "--model.agents.NAME.env.id"),
        ("--device", "--devices and --trainer.accelerator"),
        ("--output_dir", "--trainer.default_root_dir"),
        ("--model.learning_rate", f"{LEARNER}.lr"),
    ],
)
def test_a_word_of_the_field_names_ours(word: str, ours: str, refused: Refused, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", full())
    for words in ((word, "1e-3"), (f"{word}=1e-3",)):
        assert refused("--config", config, *words) == f"there is no option {word}; here it is {ours}"


@pytest.mark.parametrize(
    ("where", "word", "says"),
    [
        ("", "learning_rate", "there is no option learning_rate; here it is model.agents.NAME.learner.lr"),
        ("model", "gamma", "there is no option model.gamma; here it is model.agents.NAME.learner.gamma"),
        ("", "T_max", "there is no option T_max in a config; it is model.T_max"),
        ("", "seed", "there is no option seed in a config; it is seed_everything"),
        ("", "workers", "there is no option workers in a config; it is data.pool.workers"),
        ("", "num_envs", "there is no option num_envs; here it is workers times copies"),
    ],
)
def test_a_word_of_the_field_in_a_config_names_ours(
    where: str, word: str, says: str, refused: Refused, tmp_path: Path
) -> None:
    config = full()
    (config[where] if where else config)[word] = 1
    assert refused("--config", write(tmp_path / "tiny.yaml", config)) == says


def test_no_word_of_other_programs_is_an_option_of_this_one() -> None:
    assert [word for word in ELSEWHERE if f"--{word}" in SHORT] == []
