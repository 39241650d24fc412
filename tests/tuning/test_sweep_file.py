"""What a sweep file may say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import sweeps

from cdrl_pl.tuning.study import StudyError, need_optuna

start, refused = sweeps.start, sweeps.refused


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"float": [2, 1]}, "space.--x.float is [2, 1]; it must be a lower one and a higher one"),
        ({"float": [1]}, "space.--x.float is [1]; it must be a list of two numbers"),
        ({"float": [1, float("inf")]}, "it must be a list of two numbers"),
        ({"float": [0, 1], "log": True}, "space.--x.float is [0, 1]; it must be over 0 where log is true"),
        ({"float": [1, 2], "log": 1}, "space.--x.log is 1; it must be true or false"),
        ({"float": [1, 2], "step": 0}, "space.--x.step is 0; it must be a number over 0"),
        ({"float": [1, 2], "step": 1, "log": True}, "space.--x.step is 1; it must be null where log is true"),
        ({"int": [1.5, 2]}, "space.--x.int is [1.5, 2]; it must be a list of two whole numbers"),
        ({"int": [1, 2], "lgo": True}, "there is no option space.--x.lgo; did you mean log?"),
        ({"choices": ["a"]}, "space.--x.choices is ['a']; it must be two or more different"),
        ({"choices": ["a", "a"]}, "it must be two or more different"),
        ({"flaot": [1, 2]}, "space.--x is {'flaot': [1, 2]}; it must have one of float, int, choices"),
        ([1, 2], "space.--x is [1, 2]; it must have one of float, int, choices"),
    ],
)
def test_a_wrong_range_is_named(said: Any, says: str, refused: Callable[..., str]) -> None:
    assert says in refused(space={"--x": said})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"spcae": {}}, "there is no option spcae; did you mean space?"),
        ({"space": {}}, "space is {}; it must name at least one option"),
        ({"space": {"gain": {"int": [1, 2]}}}, "space has 'gain'; each must be an option of the command line"),
        ({"space": {"--seed": {"int": [1, 2]}}}, "space has --seed, which the sweep decides for every trial"),
        ({"overrides": ["--gain=1"]}, "overrides has --gain, which space varies"),
        ({"overrides": ["--T_max=1"]}, "overrides has --T_max, which the sweep decides"),
        ({"metric": "retrun/pole"}, "metric is 'retrun/pole'; it must be a column of metrics.csv"),
        ({"direction": "up"}, "direction is 'up'; it must be maximize or minimize"),
        ({"trials": 0}, "trials is 0; it must be 1 or more"),
        ({"seeds": [1, 1]}, "seeds is [1, 1]; it must be different"),
        ({"sampler_seed": -1}, "sampler_seed is -1; it must be a whole number from 0"),
        ({"pruner": {"kind": "mean"}}, "pruner.kind is 'mean'; it must be median or none"),
        ({"pruner": {"kind": "median", "every": 41}}, "pruner.every is 41; it must be from 1 to T_max"),
        ({"executor": "cloud"}, "executor is 'cloud'; it must be one of"),
        ({"config": "nowhere.yaml"}, "config is 'nowhere.yaml', no file below"),
    ],
)
def test_a_mistake_in_the_file_is_named(changes: dict[str, Any], says: str, refused: Callable[..., str]) -> None:
    assert says in refused(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"space": {"--unknown": {"int": [1, 2]}}}, "space (--unknown=1): there is no option --unknown"),
        ({"metric": "return/expert"}, "metric is 'return/expert', of an agent that does not learn; there learn pole"),
        ({"overrides": ["--no_checkpoints=1"]}, "trainer.enable_checkpointing is false"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_any_run(
    changes: dict[str, Any], says: str, refused: Callable[..., str]
) -> None:
    pytest.importorskip("optuna", reason='sweeps need optuna: pip install "cdrl-pl[tune]"')
    assert says in refused(**changes)


@pytest.mark.parametrize(("option", "says"), [("--job=2", "did you mean --jobs?"), ("--trials=0", "--trials is 0")])
def test_a_wrong_option_is_named(option: str, says: str, refused: Callable[..., str]) -> None:
    assert says in refused(option)


def test_without_optuna_one_line_names_the_extra(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert refused() == 'sweeps need optuna: pip install "cdrl-pl[tune]"'
    with pytest.raises(StudyError):
        need_optuna()
