"""A slip in an option without dots is answered before torch is imported."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Run, build, refused, run, tiny, write  # noqa: F401

from cdrl_pl.cli.options import SHORT, UNDOTTED, check_undotted


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--T_mx", "there is no option --T_mx; did you mean --T_max?"),
        ("--confg=x.yaml", "there is no option --confg; did you mean --config?"),
        ("--learning_rate", "there is no option --learning_rate; here it is --model.agents.NAME.learner.lr"),
    ],
)
def test_a_slip_is_refused(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        check_undotted(["fit", word, "5"])
    assert end.value.code == 2 and capsys.readouterr().err.splitlines()[0] == f"error: {said}"


def test_every_option_that_there_is_passes(build: Run) -> None:  # noqa: F811
    parsers = build("fit", "--model.agents={pole: {env: {id: CartPole-v1}, network: {trunk: mlp}}}")._subcommand_parsers
    options = {o for p in parsers.values() for a in p._actions for o in a.option_strings if o.startswith("--")}
    undotted = {option for option in options if "." not in option}
    assert undotted <= {*SHORT, *UNDOTTED}
    check_undotted(["fit", *sorted(undotted), "--model.T_mx=5", "--trainer.callbacks+=x", "--wholly_unheard_of"])


@pytest.mark.parametrize("option", ["kwargs.moves=5", "kwargs=moves"])
def test_keywords_of_a_task_that_are_no_mapping_are_told_how_to_be_one(option: str, refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    said = refused("--config", write(tmp_path / "tiny.yaml", tiny()), f"--model.agents.pole.env.{option}")
    assert "env.kwargs must be a mapping: --model.agents.NAME.env.kwargs '{moves: 5}'" in said
