"""A slip in the name of an option, or in a config file, is answered before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import REPOSITORY, Run, build, refused, run, tiny, write  # noqa: F401

from cdrl_pl.cli.options import SHORT
from cdrl_pl.cli.slips import UNDOTTED, check_slips


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--T_mx", "there is no option --T_mx; did you mean --T_max?"),
        ("--confg=x.yaml", "there is no option --confg; did you mean --config?"),
        ("--learning_rate", "there is no option --learning_rate; here it is --model.agents.NAME.learner.lr"),
        ("--model.T_mx", "there is no option --model.T_mx; did you mean --model.T_max?"),
        ("--data.pool.worker", "there is no option --data.pool.worker; did you mean --data.pool.workers?"),
        ("--trainer.max_epoch", "there is no option --trainer.max_epoch; did you mean --trainer.max_epochs?"),
        ("--model.transfers.T3", "there is no option --model.transfers.T3; did you mean --model.transfers.T2?"),
        (
            "--model.agents.a-b.learner.gama=1",
            "there is no option --model.agents.a-b.learner.gama; did you mean --model.agents.a-b.learner.gamma?",
        ),
        ("--model.agents.no.env.crop", "--model.agents.no.env.crop is now called --model.agents.no.env.view.crop"),
    ],
)
def test_a_slip_is_refused(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        check_slips(["fit", word, "5"])
    assert end.value.code == 2 and capsys.readouterr().err.splitlines()[0] == f"error: {said}"


def test_every_option_that_there_is_passes(build: Run) -> None:  # noqa: F811
    parsers = build("fit", "--model.agents={pole: {env: {id: CartPole-v1}, network: {trunk: mlp}}}")._subcommand_parsers
    options = {o for p in parsers.values() for a in p._actions for o in a.option_strings if o.startswith("--")}
    undotted = {option for option in options if "." not in option}
    assert undotted <= {*SHORT, *UNDOTTED}
    check_slips(["fit", *sorted(undotted), "--trainer.callbacks+=x", "--wholly_unheard_of"])


def test_an_option_that_there_is_passes_wherever_it_stands(tmp_path: Path) -> None:
    """Within keywords and objects by class path there may be any name."""
    names = "model.agents.on.env.kwargs.moves data.pool.workers.help trainer.callbacks.agent trainer.logger.save_dir"
    check_slips(["fit", *(f"--{name}=1" for name in [*names.split(), "model.transfers+", "model.transfers.0.T1"])])
    shipped = [
        path for path in (REPOSITORY / "configs").rglob("*.yaml") if not {"experiments", "tuning"} & {*path.parts}
    ]
    assert len(shipped) > 20
    check_slips(["fit", *(f"--config={path}" for path in shipped)])


@pytest.mark.parametrize("text", ["model: {T_mx: 5}", "model.T_mx: 5", "model: {transfers: [{teacher: a, T_mx: 2}]}"])
def test_a_slip_in_a_config_is_refused_with_the_file(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path := tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        check_slips(["fit", "--config", str(path)])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith(f"error: {path}: there is no option model.") and "T_mx" in said


def test_whatever_else_is_wrong_with_a_config_is_left_to_the_parser(tmp_path: Path) -> None:
    (path := tmp_path / "run.yaml").write_text("model: {T_max: [1, {}]}\nother: 1")
    check_slips(["fit", "--config", str(path), "-c", str(tmp_path / "none.yaml"), "--config=-", "--config"])


def test_the_answer_needs_neither_torch_nor_lightning() -> None:
    code = "import sys, cdrl_pl.cli.slips; assert not {'torch', 'pytorch_lightning', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)


@pytest.mark.parametrize("option", ["kwargs.moves=5", "kwargs=moves"])
def test_keywords_of_a_task_that_are_no_mapping_are_told_how_to_be_one(option: str, refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    said = refused("--config", write(tmp_path / "tiny.yaml", tiny()), f"--model.agents.pole.env.{option}")
    assert "env.kwargs must be a mapping: --model.agents.NAME.env.kwargs '{moves: 5}'" in said
