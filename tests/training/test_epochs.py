"""Epochs, and the ends that Lightning's options give a run: each is exact to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import agent, fit, graph, played, transfer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from resuming import SaveAt, differences, final_state
from wide_cartpole import WIDE

from callbacks import EnvStepsCheckpoint
from cdrl_pl.training.collaboration import Collaboration


class Epochs(pl.Callback):
    """T at the start and the end of every epoch, and at every line."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.lines: list[int] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.starts.append(module.clock)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.ends.append(module.clock)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        line = int(module.run_log.latest.get("env_steps", 0))
        if line and line not in self.lines:
            self.lines.append(line)


def both(T_max: int = 200, log_every: int = 40, **options: Any) -> Collaboration:
    """A five-action teacher and its student; a batch has 10 decisions, and steps of two or three optimizers."""
    agents = {"alpha": agent(WIDE), "beta": agent()}
    return graph(transfer(T1=40, T2=80), agents=agents, T_max=T_max, log_every=log_every, **options)


def go(folder: Path, *callbacks: pl.Callback, resume: Path | None = None, **options: Any) -> tuple[Any, pl.Trainer]:
    module = both(**{k: options.pop(k) for k in ("T_max", "log_every") if k in options})
    trainer = fit(module, played(), folder, *callbacks, ckpt_path=resume, **options)
    return module, trainer


# What an epoch is


@pytest.mark.parametrize(
    ("log_every", "starts", "ends"),
    [
        (40, [0, 40, 80, 120, 160], [40, 80, 120, 160, 200]),
        (45, [0, 50, 90, 140, 180], [50, 90, 140, 180, 200]),
        (1000, [0], [200]),
    ],
)
def test_an_epoch_is_what_lies_between_two_log_lines(
    log_every: int, starts: list[int], ends: list[int], tmp_path: Path
) -> None:
    epochs = Epochs()
    go(tmp_path, epochs, log_every=log_every)
    assert epochs.starts == starts and epochs.ends == ends and epochs.lines == ends


@pytest.mark.parametrize(
    ("limit", "T_max", "ends"), [(3, 90, [30, 60, 90]), (3, 100, [30, 60, 90, 100]), (1, 20, [10, 20])]
)
def test_limit_train_batches_gives_an_epoch_as_many_batches(
    limit: int, T_max: int, ends: list[int], tmp_path: Path
) -> None:
    epochs = Epochs()
    go(tmp_path, epochs, limit_train_batches=limit, T_max=T_max, log_every=1000)
    assert epochs.ends == ends and epochs.lines == ends


def test_an_epoch_of_more_batches_than_a_log_line_has_lines_within(tmp_path: Path) -> None:
    epochs = Epochs()
    go(tmp_path, epochs, limit_train_batches=7, T_max=140, log_every=40)
    assert epochs.ends == [70, 140] and epochs.lines == [40, 70, 80, 120, 140]


def test_what_is_learned_does_not_depend_on_epochs(tmp_path: Path) -> None:
    found = [
        {k: v for k, v in final_state(*go(tmp_path / str(i), **options)).items() if k != "log"}
        for i, options in enumerate(({"log_every": 1000}, {"log_every": 20}, {"limit_train_batches": 3}))
    ]
    assert differences(found[0], found[1]) == [] and differences(found[0], found[2]) == []


# Ends

ENDS: dict[str, tuple[dict[str, Any], int]] = {  # options, and T at the end
    "max_epochs": ({"max_epochs": 2}, 80),
    "max_epochs of batches": ({"max_epochs": 2, "limit_train_batches": 5}, 100),
    "max_steps before T1": ({"max_steps": 6}, 30),  # both learn: 2 steps a batch
    "max_steps after T1": ({"max_steps": 20}, 80),  # from T1 = 40 on, F too: 3 steps
    "max_steps within a batch": ({"max_steps": 21}, 90),
    "fast_dev_run": ({"fast_dev_run": 3}, 30),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_ends_where_an_option_says(end: str, tmp_path: Path) -> None:
    options, clock = ENDS[end]
    assert go(tmp_path, **options)[0].env_steps == {"alpha": clock, "beta": clock}


def test_max_time_ends_a_run_at_a_batchs_boundary(tmp_path: Path) -> None:
    module, _ = go(tmp_path, EnvStepsCheckpoint(), max_time={"seconds": 1}, T_max=10**7, log_every=10**6)
    assert 0 < module.clock < 10**7 and module.clock % 10 == 0
    assert module.run_log.latest["env_steps"] == module.clock
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"env_steps={module.clock}.ckpt"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run to T_max that nothing ended before has come to."""
    return final_state(*go(tmp_path_factory.mktemp("whole"), EnvStepsCheckpoint(10**6)))


RESUMED = [end for end in ENDS if end not in ("fast_dev_run", "max_epochs of batches")]


@pytest.mark.parametrize("end", RESUMED)
def test_a_run_that_an_option_ended_has_its_last_line_and_checkpoint_and_goes_on_exactly(
    end: str, tmp_path: Path, whole: Any
) -> None:
    options, clock = ENDS[end]
    logger = CSVLogger(tmp_path, name="", version="first")
    module, _ = go(tmp_path, EnvStepsCheckpoint(10**6), logger=logger, **options)
    assert module.run_log.latest["env_steps"] == clock
    last = (tmp_path / "first" / "metrics.csv").read_text().splitlines()
    assert f",{clock}," in last[-1] and len(last) == 1 + -(-clock // 40)
    found = go(
        tmp_path / "second",
        EnvStepsCheckpoint(10**6),
        resume=tmp_path / "first" / "checkpoints" / f"env_steps={clock}.ckpt",
    )
    different = [d for d in differences(final_state(*found), whole) if "/saved" not in d]
    if clock % 40:  # the last line came between two others
        different = [d for d in different if not d.startswith("/log")]
    assert different == []


# What Lightning's callbacks see


def test_callback_metrics_are_the_last_line(tmp_path: Path) -> None:
    module, trainer = go(tmp_path)
    assert set(trainer.callback_metrics) == set(module.run_log.latest) and "return/beta" in trainer.callback_metrics
    assert {k: v.item() for k, v in trainer.callback_metrics.items()} == module.run_log.latest


class Scores(pl.Callback):
    """Puts made-up values in the place of a mean return, line by line."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        module.run_log.latest["return/beta"] = self.values[int(module.clock) // 40 - 1]
        trainer.callback_metrics["return/beta"] = torch.tensor(self.values[int(module.clock) // 40 - 1])


def stopping(**options: Any) -> EarlyStopping:
    return EarlyStopping("return/beta", mode="max", **{"patience": 2, **options})


def test_early_stopping_ends_a_run(tmp_path: Path) -> None:
    """5, 6, then nothing better in two lines."""
    module, _ = go(tmp_path, Scores(5, 6, 6, 4, 9), stopping(), EnvStepsCheckpoint())
    assert module.clock == 160 and module.run_log.latest["env_steps"] == 160
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["env_steps=160.ckpt"]


def test_early_stopping_ends_a_run_by_what_is_really_logged(tmp_path: Path) -> None:
    """A pole that is cut after 12 decisions has been held for more than 1 of them."""
    module, _ = go(tmp_path, stopping(stopping_threshold=1.0))
    assert 0 < module.clock < 200 and module.run_log.latest["return/beta"] > 1


def test_early_stopping_waits_for_the_first_episode(tmp_path: Path) -> None:
    module, _ = go(tmp_path, stopping(), T_max=40, log_every=10)
    assert module.clock == 40  # with patience 2, a missing value that counted would have ended it


@pytest.mark.parametrize("at", [20, 80, 90, 120])
def test_early_stopping_goes_on_from_a_checkpoint(at: int, tmp_path: Path) -> None:
    """In the middle of an epoch, and where a line was just written."""
    ends = []
    for folder, resume in (("first", None), ("second", tmp_path / f"{at}.ckpt")):
        scores, stop = Scores(5, 6, 6, 4, 9), stopping()
        module, _ = go(tmp_path / folder, scores, stop, SaveAt(tmp_path, at), resume=resume)
        ends.append((module.clock, stop.wait_count, float(stop.best_score)))
    assert ends[0] == (160, 2, 6.0) and ends[1] == ends[0]


def test_model_checkpoint_keeps_the_best_and_it_can_be_gone_on_from(tmp_path: Path, whole: Any) -> None:
    best = ModelCheckpoint(tmp_path / "best", monitor="return/beta", mode="max", save_top_k=1)
    go(tmp_path / "first", Scores(5, 9, 6, 4, 8), best, enable_checkpointing=True)
    (kept,) = (tmp_path / "best").iterdir()
    assert Path(best.best_model_path) == kept and best.best_model_score == 9
    assert torch.load(kept, weights_only=True)["collaboration"]["env_steps"] == {"alpha": 80, "beta": 80}
    found = go(tmp_path / "second", EnvStepsCheckpoint(10**6), resume=kept)
    assert [d for d in differences(final_state(*found), whole) if "/saved" not in d] == []


@pytest.mark.parametrize(
    ("monitor", "said"),
    [
        ("retrun/beta", "EarlyStopping.monitor is 'retrun/beta', which no log line has; did you mean return/beta?"),
        ("val_loss", "EarlyStopping.monitor is 'val_loss', which no log line has; did you mean"),
        ("return/gamma", "did you mean return/"),
        ("actions/beta", "did you mean actions/beta/0?"),
        ("xyz", "it must be a metric of docs/reference.md, such as return/alpha"),
    ],
)
def test_a_monitor_that_no_line_has_is_refused_before_a_worker_starts(
    monitor: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdrl_pl.rollouts.pool.Pool.start", lambda self: pytest.fail("a worker was started"))
    with pytest.raises(ValueError, match=r"EarlyStopping\.monitor") as refused:
        go(tmp_path, EarlyStopping(monitor))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_every_name_of_a_line_can_be_watched(tmp_path: Path) -> None:
    module, _ = go(tmp_path, T_max=120)
    stops = [EarlyStopping(name, patience=9, check_finite=False) for name in module.run_log.latest]
    assert len(stops) > 30 and go(tmp_path, *stops, T_max=120)[0].clock == 120


class Logs(pl.Callback):
    """Logs a name of its own."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        module.log("mine", 1.0, batch_size=1)


def test_what_another_callback_logs_can_be_watched(tmp_path: Path) -> None:
    stop = EarlyStopping("mine", patience=2)
    assert go(tmp_path, Logs(), stop)[0].clock == 120


def test_a_monitor_that_no_callback_logs_is_refused_at_the_first_epochs_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"EarlyStopping\.monitor is 'mime', which no log line has"):
        go(tmp_path, Logs(), EarlyStopping("mime"))


def test_a_monitor_that_was_in_no_line_is_said_at_the_end(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"EarlyStopping.monitor 'gradient_cosine/alpha-beta' was in no log line"):
        go(tmp_path, EarlyStopping("gradient_cosine/alpha-beta"), T_max=80)


@pytest.mark.parametrize("options", [{"every_n_train_steps": 3}, {"train_time_interval": {"seconds": 5}}])
def test_a_model_checkpoint_that_might_never_save_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"ModelCheckpoint.{next(iter(options))} is .*use every_n_epochs"):
        go(tmp_path, ModelCheckpoint(tmp_path, **options), enable_checkpointing=True)


@pytest.mark.parametrize("at", [20, 30, 50, 60])
def test_a_run_of_counted_epochs_goes_on_to_the_same_end(at: int, tmp_path: Path) -> None:
    """From the middle of an epoch, and from its last batch."""
    options: dict[str, Any] = {"limit_train_batches": 3, "max_epochs": 3, "log_every": 1000}
    found, lines = [], []
    for folder, resume in (("first", None), ("second", tmp_path / f"{at}.ckpt")):
        epochs = Epochs()
        found.append(final_state(*go(tmp_path / folder, epochs, SaveAt(tmp_path, at), resume=resume, **options)))
        lines.append([line for line in epochs.lines if line > at])
    assert differences(found[0], found[1]) == [] and lines[1] == lines[0]
    assert found[1]["clocks"] == [{"alpha": 90, "beta": 90}, 9]
