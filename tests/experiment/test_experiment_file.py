"""What an experiment file may say, and arms that could not be compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import experiments
import pytest

from cdrl_pl.experiment.plan import ExperimentError, read_experiment

refused, start, write = experiments.refused, experiments.start, experiments.write
Start = experiments.Start


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"overrides": ["--no_checkpoints=1"]}, "arms.one: trainer.enable_checkpointing is false"),
        ({"overrides": ["--early=1"]}, "arms.one: a callback has stop: true"),
        ({"overrides": ["--own_seed=7"]}, "arms.one: its config sets data.seed to 7, which the experiment decides"),
        ({"agent": "expert"}, "agent is 'expert', which does not learn in arm one; there learn pole"),
        ({"agent": "nobody"}, "agent is 'nobody'"),
        ({"overrides": ["--unknown=1"]}, "arms.one: there is no option --unknown"),
    ],
)
def test_an_unfair_or_wrong_arm_is_refused(changes: dict[str, Any], says: str, refused: Callable[..., str]) -> None:
    assert says in refused(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": [1]}, "there is no option seed; did you mean seeds?"),
        ({"arms": {"one": {"overides": []}}}, "there is no option arms.one.overides; did you mean overrides?"),
        ({"arms": {}}, "arms is {}; it must be at least one arm"),
        ({"arms": {"one arm": None}}, "'one arm' is no name of an arm"),
        ({"baseline": "three"}, "baseline is 'three'; it must be one of the arms one, two"),
        ({"seeds": []}, "seeds is []; it must be whole numbers"),
        ({"seeds": [1, 1]}, "seeds is [1, 1]; it must be different"),
        ({"seeds": [-1]}, "seeds is [-1]; it must be whole numbers from 0 to 4294967295"),
        ({"seeds": [2**32]}, "seeds is [4294967296]; it must be whole numbers from 0 to 4294967295"),
        ({"seeds": [1.5]}, "seeds is [1.5]; it must be whole numbers"),
        ({"seeds": [True]}, "seeds is [True]; it must be whole numbers"),
        ({"seeds": [[1]]}, "seeds is [[1]]; it must be whole numbers"),
        ({"seeds": [1, 1.0]}, "seeds is [1, 1]; it must be different"),
        ({"T_max": 1.5}, "T_max is 1.5; it must be int"),
        ({"arms": {1: None}}, 'arms names 1, which YAML takes for a number; write "1", or choose another name'),
        ({"arms": {False: None}}, "arms names false, which YAML takes for true or false; write"),
        ({"T_max": 0}, "T_max is 0; it must be 1 or more"),
        ({"T_max": True}, "T_max is True; it must be int"),
        ({"T_max": None}, "T_max is missing"),
        ({"episodes": 0}, "episodes is 0"),
        ({"threshold": "high"}, "threshold is 'high'; it must be int or float"),
        ({"config": "nowhere.yaml"}, "arms.one.config is 'nowhere.yaml', no file below"),
        ({"config": None}, "arms.one has no config"),
        ({"overrides": ["lr=3"]}, "has 'lr=3'; each must read --option=value"),
        ({"overrides": ["--seed=3"]}, "--seed, which the experiment decides"),
        ({"overrides": ["--T_max=3"]}, "--T_max, which the experiment decides"),
        ({"paper": [{"arm": "one", "value": 3}]}, "paper[0].protocol is missing"),
        ({"paper": [{"arm": "three", "value": 3, "protocol": "x"}]}, "paper[0].arm is 'three'"),
    ],
)
def test_a_mistake_in_the_file_is_named(changes: dict[str, Any], says: str, refused: Callable[..., str]) -> None:
    assert says in refused(**changes)


def test_a_config_that_has_moved_names_its_new_place(refused: Callable[..., str]) -> None:
    Path("configs/paper").mkdir(parents=True)
    Path("configs/paper/online_2.yaml").touch()
    assert refused(config="configs/online_2.yaml").endswith("; did you mean configs/paper/online_2.yaml?")


def test_an_experiment_takes_whole_numbers_in_any_spelling(start: Start) -> None:
    write(seeds=[0, 2**32 - 1, 5.0])
    text = Path("experiment.yaml").read_text()
    Path("experiment.yaml").write_text(text.replace("T_max: 40", "T_max: 1e6\nepisodes: 1_0.0\nthreshold: 1e3"))
    found = read_experiment("experiment.yaml")
    assert (found.T_max, found.episodes, found.threshold) == (1_000_000, 10, 1000)
    assert found.seeds == (0, 2**32 - 1, 5) and "--T_max=1000000" in found.options(found.arms[0])


@pytest.mark.parametrize("option", ["episodes", "noop_max", "threshold", "paper"])
def test_null_in_an_experiment_is_as_nothing(option: str, start: Start) -> None:
    assert read_experiment(write(**{option: None})) == read_experiment(write())


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be read"):
        read_experiment(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ExperimentError, match="is not YAML"):
        read_experiment(tmp_path / "broken.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff")
    with pytest.raises(ExperimentError, match="no text in UTF-8"):
        read_experiment(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("option", "says"), [("--job=2", "no option --job; did you mean --jobs?"), ("--jobs=0", "--jobs is 0")]
)
def test_a_wrong_option_is_named(option: str, says: str, refused: Callable[..., str]) -> None:
    assert says in refused(option)
