"""The callbacks: when transfers are switched, what is stored when, and what a person sees."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import (
    SCORE,
    FixedData,
    agent,
    alone,
    copy_of,
    fit,
    graph,
    new_network,
    random_batch,
    random_rollout,
    store,
    transfer,
)
from numpy.testing import assert_allclose
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console
from wide_cartpole import WIDE

import callbacks.certificate
from callbacks import (
    ActionDistributions,
    AlignmentSchedule,
    CertificatedTeacher,
    DistillationSchedule,
    EnvStepsCheckpoint,
    Progress,
)
from callbacks.progress import clock, render, summary
from cdrl_pl.agents.certificate import load_certificate
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.evaluation.score import Score
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.types import Episode, Rollout

Batch = dict[str, Rollout]


def returning(*returns: float) -> list[Batch]:
    """A rollout of 10 decisions for each return, in which one episode ends with it."""
    return [
        {"beta": replace(random_rollout(i), episodes=(Episode(float(ret), 9),))} for i, ret in enumerate(returns)
    ]  # fmt: skip


# Schedules


def callback(trainer: pl.Trainer, kind: type) -> Any:
    (found,) = (c for c in trainer.callbacks if type(c) is kind)  # type: ignore[attr-defined]
    return found


def test_the_schedules_remember_when_they_switched(tmp_path: Path) -> None:
    """Each transfer by itself; a batch is switched as a whole, by the T at its start."""
    agents = {"one": agent(WIDE), "two": agent(), "beta": agent()}
    first, second = transfer("one", T1=15, T2=40, stop=65), transfer("two", T1=0, T2=20, stop="never")
    module = graph(first, second, agents=agents)
    trainer = fit(module, FixedData(random_batch(module)), tmp_path)
    assert callback(trainer, AlignmentSchedule).switched == {"one-beta": [20, 70], "two-beta": [0]}
    assert callback(trainer, DistillationSchedule).switched == {"one-beta": [40, 70], "two-beta": [20]}


def test_the_identity_is_never_trained_and_still_distilled(tmp_path: Path) -> None:
    module = graph(transfer(kind="identity", T2=20), agents={"alpha": agent(), "beta": agent()})
    trainer = fit(module, FixedData(random_batch(module)), tmp_path)
    assert callback(trainer, AlignmentSchedule).switched == {"alpha-beta": []}
    assert callback(trainer, DistillationSchedule).switched == {"alpha-beta": [20]}


def test_transfers_without_their_schedules_are_refused(tmp_path: Path) -> None:
    module = graph(transfer(), T_max=20)
    with pytest.raises(ConfigError, match=r"alpha-beta: no callback switches aligning on; add callbacks.Alignment"):
        fit(module, FixedData(random_batch(module)), tmp_path, schedules=False)
    with pytest.raises(ConfigError, match="no callback switches distilling on"):
        fit(module, FixedData(random_batch(module)), tmp_path, AlignmentSchedule(), schedules=False)


@pytest.mark.parametrize("kind", [AlignmentSchedule, DistillationSchedule])
def test_the_state_of_a_schedule_goes_round(kind: type) -> None:
    one, other = kind(), kind()
    one.switched = {"alpha-beta": [3, 2**33]}
    other.load_state_dict(one.state_dict())
    assert other.switched == {"alpha-beta": [3, 2**33]}


# The certificated teacher


def certificate(folder: Path) -> Any:
    return load_certificate(folder / "teacher" / "beta")[0]


def train(folder: Path, watch: CertificatedTeacher, *returns: float, **options: Any) -> Collaboration:
    module = alone(T_max=10 * len(returns), **options)
    fit(module, FixedData(*returning(*returns), seed=6), folder, watch)
    return module


def test_a_teacher_is_stored_as_soon_as_its_last_episodes_pass_the_threshold(tmp_path: Path) -> None:
    """The mean of three: 1, 2.33, 3.67 and 5."""
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=3, episodes=2), 1, 1, 1, 5, 5, 5, 5)
    training = certificate(tmp_path).training
    assert training == {"env_steps": 60, "seed": 6, "threshold": 4.0, "window": 3, "mean_return": 5.0}


def test_a_teacher_below_the_threshold_is_not_stored(tmp_path: Path) -> None:
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=3, episodes=2), 1, 1, 1, 5, 5, 1)
    assert not (tmp_path / "teacher").exists()


def test_a_teacher_of_fewer_episodes_than_the_window_is_not_stored(tmp_path: Path) -> None:
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=3, episodes=2), 50, 50)
    assert not (tmp_path / "teacher").exists()


def test_a_full_window_is_stored(tmp_path: Path) -> None:
    """The control of the test above."""
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=3, episodes=2), 50, 50, 50)
    assert certificate(tmp_path).training["env_steps"] == 30


def test_a_teacher_is_stored_once(tmp_path: Path) -> None:
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 1, 5, 9, 99)
    assert certificate(tmp_path).training["mean_return"] == 5.0


def test_a_teacher_is_stored_again_as_it_improves(tmp_path: Path) -> None:
    seen = []

    class Watched(CertificatedTeacher):
        def _certificate(self, trainer: pl.Trainer, module: Collaboration, mean: float) -> None:
            seen.append((module.clock, mean))
            super()._certificate(trainer, module, mean)

    train(tmp_path, Watched("beta", 4.0, window=1, episodes=2, improvement=3.0), 1, 5, 7, 8, 10, 11, 2)
    assert seen == [(20, 5.0), (40, 8.0), (60, 11.0)]
    assert certificate(tmp_path).training["mean_return"] == 11.0


def test_the_run_goes_on_unless_it_is_told_to_stop_with_the_teacher(tmp_path: Path) -> None:
    on = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 1, 5, 5, 5)
    off = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2, stop=True), 1, 5, 5, 5)
    assert (on.clock, off.clock) == (40, 20)


def test_the_stored_weights_are_those_that_passed(tmp_path: Path) -> None:
    """Not those at the end of the run."""
    module = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 1, 5, 5, 5)
    _, weights = load_certificate(tmp_path / "teacher" / "beta")
    control = alone(T_max=20)
    fit(control, FixedData(*returning(1, 5)), tmp_path)
    for name, value in control.agents["beta"].network.state_dict().items():
        assert torch.equal(weights[name], value)
    assert not torch.equal(weights["value_head.bias"], module.agents["beta"].network.value_head.bias)


def test_the_scores_of_the_frozen_policy_are_recorded_sampled_and_greedy(tmp_path: Path) -> None:
    module = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=5), 1, 5)
    found, weights = load_certificate(tmp_path / "teacher" / "beta")
    network = PolicyNetwork(found.network, found.spec.obs_shape, found.spec.num_actions)
    network.load_state_dict(weights)
    assert list(found.evaluation) == ["sampled", "greedy"]
    for name, score in found.evaluation.items():
        assert score == evaluate(network, module.agents["beta"].env, 5, name == "greedy", seed=score.seed)
        assert score.policy == name and score.episodes == len(score.returns) == 5
        mean = sum(score.returns) / 5
        assert_allclose(score.mean, mean)
        assert_allclose(score.std, (sum((r - mean) ** 2 for r in score.returns) / 5) ** 0.5)


def test_the_evaluation_has_seeds_of_its_own(tmp_path: Path) -> None:
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 5)
    assert {score.seed for score in certificate(tmp_path).evaluation.values()}.isdisjoint(range(1000))


def test_its_evaluation_is_as_patient_as_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def evaluated(*_: Any, stall_timeout: float, **__: Any) -> Any:
        seen.append(stall_timeout)
        raise Stopped

    monkeypatch.setattr("callbacks.certificate.evaluate", evaluated)
    module = graph(agents={"beta": agent()}, T_max=10)
    data = FixedData(random_batch(module, ends=1.0))
    data.pool = PoolConfig(stall_timeout=7.0)
    fit(module, data, tmp_path, CertificatedTeacher("beta", threshold=-1e9, window=1, episodes=1))
    assert seen == [7.0]


def test_storing_a_teacher_does_not_change_its_training(tmp_path: Path) -> None:
    watched = train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 1, 5, 5)
    control = alone(T_max=30)
    fit(control, FixedData(*returning(1, 5, 5)), tmp_path)
    assert all(torch.equal(v, copy_of(watched)[k]) for k, v in control.state_dict().items())


def test_an_atari_teacher_is_evaluated_from_random_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[int, bool]] = []

    def fake(network: Any, env: EnvConfig, episodes: int, greedy: bool, *_: Any, **__: Any) -> Score:
        played.append((env.noop_max, greedy))
        return SCORE

    monkeypatch.setattr(callbacks.certificate, "evaluate", fake)
    config = AgentConfig(EnvConfig("Pong-2017"), NetworkConfig("conv", channels=2, depth=2, lstm=0))
    module = graph(agents={"beta": config}, T_max=10)
    rollout = replace(random_rollout(), obs=torch.zeros(6, 2, 1, 42, 42, dtype=torch.uint8), state=torch.zeros(2, 0))
    watch = CertificatedTeacher("beta", -1.0, window=1, noop_max=17)
    fit(module, FixedData({"beta": rollout}), tmp_path, watch)
    assert played == [(17, False), (17, True)]


def test_the_teacher_lies_below_the_run_folder(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    watch = CertificatedTeacher("beta", 4.0, window=1, episodes=2, folder="experts/best")
    fit(alone(T_max=10), FixedData(*returning(5)), tmp_path, watch, logger=logger)
    assert load_certificate(Path(logger.log_dir) / "experts" / "best")


def test_a_stored_teacher_teaches(tmp_path: Path) -> None:
    """Round: the folder goes straight into a graph."""
    train(tmp_path, CertificatedTeacher("beta", 4.0, window=1, episodes=2), 5)
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "teacher" / "beta")), "beta": agent()}
    module = graph(transfer(kind="identity"), agents=agents, T_max=10)
    fit(module, FixedData(random_batch(module)), tmp_path)
    assert module.run_log.latest["distillation_kl/alpha-beta"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "gamma"}, "CertificatedTeacher.agent is 'gamma'; it must be one of beta"),
        ({"agent": "alpha"}, "CertificatedTeacher.agent is 'alpha'; it must be one of beta"),  # it does not learn
        ({"agent": "beta", "window": 101}, "CertificatedTeacher.window is 101; it must be at most model.window, 100"),
    ],
)
def test_fault_28_a_teacher_that_can_never_be_stored_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    store(tmp_path / "expert", new_network())
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
    module = graph(transfer(kind="identity"), agents=agents)
    with pytest.raises(ValueError, match=message):
        fit(module, FixedData(random_batch(module)), tmp_path, CertificatedTeacher(threshold=1.0, **options))


@pytest.mark.parametrize("option", ["window", "episodes"])
def test_fault_28_a_teacher_of_no_episodes_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"CertificatedTeacher.{option} is 0; it must be 1 or more"):
        CertificatedTeacher("beta", 1.0, **{option: 0})


# Action distributions


def test_action_distributions_are_written_once_per_interval_and_at_the_end(tmp_path: Path) -> None:
    module = alone(T_max=70)
    fit(module, FixedData(random_batch(module)), tmp_path, ActionDistributions(20))
    lines = (tmp_path / "action_distributions.jsonl").read_text().splitlines()
    assert [json.loads(line)["env_steps"] for line in lines] == [20, 40, 60, 70]


def test_a_students_action_distribution_is_that_of_its_policy(tmp_path: Path) -> None:
    module = alone(T_max=10)
    batch = random_batch(module)
    with torch.no_grad():
        expected = module.agents["beta"](batch["beta"]).logits[:5].softmax(-1).mean((0, 1))
    fit(module, FixedData(batch), tmp_path, ActionDistributions(10))
    line = json.loads((tmp_path / "action_distributions.jsonl").read_text().splitlines()[-1])
    assert_allclose(list(line["beta"].values()), expected, atol=1e-3)


# The display


def text_of(panel: Any, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(panel)
    return console.file.getvalue()  # type: ignore[attr-defined]


def in_the_middle() -> Collaboration:
    """A run at T = 3,000 of 12,000 with numbers that are easy to find."""
    module = graph(transfer(T1=1_000, T2=2_000), T_max=12_000)
    module.env_steps = {"alpha": 3_000, "beta": 3_000}
    module.transfers[0].distilling = True
    module.run_log.episodes["beta"].extend([Episode(10.0, 10), Episode(21.5, 20)])
    module.run_log.latest = {
        "env_steps": 3_000,
        "decisions_per_second": 5.0,  # of both agents
        "return/beta": 15.75,
        "length/beta": 15.0,
        "episodes/beta": 4_321,
        "policy_loss/beta": -0.123,
        "value_loss/beta": 4.56,
        "entropy/beta": 0.678,
        "policy_lag/beta": 1.5,
        "alignment_kl/alpha-beta": 0.0912,
        "distillation_kl/alpha-beta": 0.345,
        "workers/restarts": 2.0,
    }
    return module


@pytest.mark.parametrize(
    "part",
    ["T 3,000/12,000", "2 decisions/s", "ETA 1:00:00", "beta return 15.75", "alpha return -", "alpha-beta: distil"],
)
def test_the_line_for_logs_contains_the_numbers(part: str) -> None:
    """9,000 decisions are left, at 2.5 per second for each agent."""
    assert part in summary(in_the_middle())


@pytest.mark.parametrize(
    "part",
    ["3,000/12,000", "15.8", "4,321", "-0.123", "4.56", "0.678", "1.5", "0.0912", "0.345", "alpha-beta", "restarts 2"],
)
def test_the_panel_contains_the_numbers(part: str) -> None:
    assert part in text_of(render(in_the_middle()))


@pytest.mark.parametrize("transfers", [[], [transfer()]])
def test_a_run_without_numbers_can_be_shown(transfers: list[Any]) -> None:
    module = graph(*transfers)
    assert "T 0/120" in text_of(render(module)) and "ETA -" in summary(module)


@pytest.mark.parametrize("window", [7, 100])
def test_the_panel_says_how_many_episodes_it_averages(window: int) -> None:
    assert f"return (last {window})" in text_of(render(graph(window=window)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30, 0.0, -0.0, 1e-12])
def test_any_number_can_be_shown(value: float) -> None:
    module = in_the_middle()
    module.run_log.latest["value_loss/beta"] = value
    assert "beta" in text_of(render(module))


@pytest.mark.parametrize("width", [10, 40, 80])
def test_the_panel_fits_a_narrow_terminal(width: int) -> None:
    assert max(map(len, text_of(render(in_the_middle()), width).splitlines())) <= width


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00:00"), (59.9, "0:00:59"), (3_661.0, "1:01:01"), (360_000.0, "100:00:00")]
)
def test_seconds_are_shown_as_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_shows_where_it_stands(tmp_path: Path, terminal: bool) -> None:
    """The first and the last line; what comes within the same seconds (here all in between) is left out."""
    module, progress, output = graph(transfer(), T_max=30), Progress(refresh=0.001), io.StringIO()
    progress._console = Console(file=output, force_terminal=terminal, width=120)
    fit(module, FixedData(random_batch(module)), tmp_path, progress)
    assert [T in output.getvalue() for T in ("T 10/30", "T 20/30", "T 30/30")] == [True, False, True]
    assert terminal or output.getvalue().count("T 30/30") == 1
    assert progress._live is None


def test_the_display_ends_with_an_exception(tmp_path: Path) -> None:
    class Fail(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("boom")

    module, progress = alone(), Progress(refresh=1e9)
    progress._console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(RuntimeError, match="boom"):
        fit(module, FixedData(random_batch(module)), tmp_path, progress, Fail())
    assert progress._live is None


@pytest.mark.parametrize("refresh", [0.0, -1.0, float("nan")])
def test_fault_28_a_refresh_rate_that_is_not_positive_is_refused(refresh: float) -> None:
    with pytest.raises(ValueError, match=f"Progress.refresh is {refresh}; it must be above 0"):
        Progress(refresh)


def test_the_states_of_all_callbacks_are_plain(tmp_path: Path) -> None:
    """Ints, floats, strings, lists and dicts, which load with ``weights_only``."""
    module = graph(transfer(), T_max=20)
    watch = [CertificatedTeacher("beta", -1e9, window=1, episodes=1), EnvStepsCheckpoint(10), Progress()]
    trainer = fit(module, FixedData(random_batch(module)), tmp_path, *watch)
    for found in trainer.callbacks:  # type: ignore[attr-defined]
        state = found.state_dict()
        assert json.loads(json.dumps(state)) == state
