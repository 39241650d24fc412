"""Seeds, and whole numbers in any spelling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import pytest
from command_line import Run, callback, edge, pole, tiny, write
from hypothesis import given
from hypothesis import strategies as st

from cdrl_pl.checks import whole

run, build, refused = command_line.run, command_line.build, command_line.refused
Refused = Callable[..., str]
SEEDS = "it must be a whole number from 0 to 4294967295, or true"


def full() -> dict[str, Any]:
    checkpoint = callback("callbacks.EnvStepsCheckpoint", every=40)
    return tiny(checkpoint, transfers=[edge()], alpha=pole(), beta=pole())


# Seeds


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("-1", "-1"),
        ("4294967296", "4294967296"),
        ("1099511627776", "1099511627776"),
        ("1.5", "1.5"),
        ("-1.0", "-1.0"),
        ("abc", "'abc'"),
        ("false", "False"),
        ("inf", "'inf'"),
        (".inf", "inf"),
        ("[1]", "[1]"),
    ],
)
def test_a_seed_that_cannot_be_is_refused(typed: str, said: str, refused: Refused, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", full())
    (tmp_path / "over.yaml").write_text(f"seed_everything: {typed}")
    for words in ((f"--seed={typed}",), ("--seed", typed), ("--config", tmp_path / "over.yaml")):
        assert refused("--config", config, *words) == f"seed_everything is {said}; {SEEDS}"


@pytest.mark.parametrize(
    ("typed", "seed"), [("0", 0), ("4294967295", 2**32 - 1), ("1e3", 1000), ("7.0", 7), ("true", 12), ("null", 12)]
)
def test_a_seed_that_can_be(typed: str, seed: int, build: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "12")
    config = write(tmp_path / "tiny.yaml", full())
    (tmp_path / "over.yaml").write_text(f"seed_everything: {typed}")
    for words in ((f"--seed={typed}",), ("--config", tmp_path / "over.yaml")):
        built = build("fit", "--config", config, *words)
        assert built.datamodule.resolved_seed() == built.config.fit.seed_everything == seed


def test_without_any_seed_it_is_0(build: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED")
    config = {key: value for key, value in full().items() if key != "seed_everything"}
    assert build("fit", "--config", write(tmp_path / "tiny.yaml", config)).datamodule.resolved_seed() == 0


def test_a_seed_of_the_environment_that_cannot_be_is_refused(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "abc")
    text = refused("--config", write(tmp_path / "tiny.yaml", full()), "--seed=true")
    assert text == "PL_GLOBAL_SEED is 'abc'; it must be a whole number from 0 to 4294967295"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--data.seed=-1", "data.seed is -1; it must be 0 or more, or null"),
        ("--data.seed=1.5", "data.seed: Expected int"),
        ("--data.seed=abc", "data.seed: Expected int"),
        ("--data.seed=true", "data.seed: Expected int"),
        ("--data.noop_max=-1", "data.noop_max is -1; it must be 0 or more"),
    ],
)
def test_a_seed_of_the_data_that_cannot_be_is_refused(option: str, says: str, refused: Refused, tmp_path: Path) -> None:
    assert says in refused("--config", write(tmp_path / "tiny.yaml", full()), option)


def test_a_seed_of_the_data_may_be_any_size(build: Run, tmp_path: Path) -> None:
    built = build("fit", "--config", write(tmp_path / "tiny.yaml", full()), "--data.seed=4294967296")
    assert built.datamodule.resolved_seed() == 2**32


# Whole numbers


QUOTES = "'\""
MILLION = ["1e6", "1_000_000", "1000000.0", "1.0E+6", "+1e6", "1000000", '"1e6"', "'1000000.0'"]
INTS: dict[str, Callable[[Any], Any]] = {
    "model.T1": lambda built: built.model.transfers[0].schedule.T1,
    "model.T2": lambda built: built.model.transfers[0].schedule.T2,
    "model.stop": lambda built: built.model.transfers[0].schedule.stop,
    "model.T_max": lambda built: built.model.T_max,
    "model.log_every": lambda built: built.model.log_every,
    "model.agents.beta.learner.lr_steps": lambda built: built.model.agents["beta"].learner.lr_steps,
    "model.agents.beta.env.max_episode_steps": lambda built: built.model.agents["beta"].env.max_episode_steps,
    "data.pool.copies": lambda built: built.datamodule.pool.copies,
    "data.learner_threads": lambda built: built.datamodule.learner_threads,
    "trainer.max_epochs": lambda built: built.trainer.max_epochs,
    "seed_everything": lambda built: built.config.fit.seed_everything,
}
LATER = {"model.T2": ["--stop=1e8"], "model.stop": ["--T2=50"], "model.T1": ["--T2=1e7"]}  # must go with it


@pytest.mark.parametrize("option", INTS)
def test_a_million_is_a_million_in_every_spelling(option: str, build: Run, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", full())
    more = LATER.get(option, [])
    for typed in MILLION if option == "model.T1" else MILLION[:3]:
        (tmp_path / "over.yaml").write_text(nested(option, typed))
        for words in ((f"--{option}={typed.strip(QUOTES)}",), ("--config", tmp_path / "over.yaml")):
            found = INTS[option](build("fit", "--config", config, *more, *words))
            assert found == 1_000_000 and type(found) is int


def nested(option: str, typed: str) -> str:
    """An option of a config, as YAML."""
    *outer, last = option.split(".")
    return "".join(f"{name}: {{" for name in outer) + f"{last}: {typed}" + "}" * len(outer)


@pytest.mark.parametrize("option", ["--T1", "--T2", "--stop", "--T_max"])
def test_a_million_is_a_million_behind_a_short_option(option: str, build: Run, tmp_path: Path) -> None:
    name = f"model.{option[2:]}"
    config = write(tmp_path / "tiny.yaml", full())
    built = build("fit", "--config", config, *LATER.get(name, []), option, "1e6")
    assert INTS[name](built) == 1_000_000


def test_whole_numbers_within_lists_transfers_and_callbacks(build: Run, tmp_path: Path) -> None:
    config = full()
    config["model"]["transfers"] = [edge(T2=1e6, weight={"steps": 1e6}, stop="1e7")]
    config["trainer"]["callbacks"][0]["init_args"]["every"] = 1e6
    config["model"]["agents"]["beta"]["env"]["actions"] = [1.0, 0.0, 1.0]
    built = build("fit", "--config", write(tmp_path / "tiny.yaml", config))
    (transfer,) = built.model.transfers
    assert (transfer.schedule.T2, transfer.schedule.stop, transfer.config.weight.steps) == (10**6, 10**7, 10**6)
    assert built.config.fit.trainer.callbacks[0].init_args.every == 1_000_000
    assert built.model.agents["beta"].env.actions == (1, 0, 1)


@pytest.mark.parametrize("typed", ["1.5", "1e-3", "abc", "inf", ".inf", "nan", "true", "1e400"])
def test_what_is_no_whole_number_is_refused(typed: str, refused: Refused, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", full())
    (tmp_path / "over.yaml").write_text(f"model: {{T_max: {typed}}}")
    for words in (("--T_max", typed), ("--config", tmp_path / "over.yaml")):
        assert refused("--config", config, *words).startswith("model.T_max: Expected int")


@pytest.mark.parametrize(("typed", "kind"), [("1.0", float), ("1", int), ("0.5", float)])
def test_an_option_that_may_be_a_float_keeps_its_floats(typed: str, kind: type, build: Run, tmp_path: Path) -> None:
    """Lightning means all batches by 1.0, and one by 1."""
    config = write(tmp_path / "tiny.yaml", full())
    (tmp_path / "over.yaml").write_text(f"trainer: {{limit_test_batches: {typed}}}")
    for words in (("--trainer.limit_test_batches", typed), ("--config", tmp_path / "over.yaml")):
        found = build("fit", "--config", config, *words).config.fit.trainer.limit_test_batches
        assert type(found) is kind and found == float(typed)


@given(st.integers(-(2**80), 2**80))
def test_whole_numbers_are_exact(number: int) -> None:
    assert whole(number) == whole(str(number)) == whole(f"{number:_}") == number
    assert whole(float(number)) == int(float(number)) and type(whole(float(number))) is int


@given(st.one_of(st.text(), st.floats().filter(lambda f: f != f or f in (float("inf"), -float("inf")))))
def test_what_is_no_number_stays_as_it_is(value: Any) -> None:
    found = whole(value)
    assert found is value or (isinstance(value, str) and float(value) == found)
