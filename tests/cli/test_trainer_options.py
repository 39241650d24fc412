"""Every option of Lightning's trainer: it does what its users expect, or is refused by name before a worker starts."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import pytest
import pytorch_lightning as pl
import torch
from command_line import Run, callback, pole, tiny, write
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy

from cdrl_pl.checks import ConfigError
from cdrl_pl.training.trainer_options import check_trainer

run, build, refused = command_line.run, command_line.build, command_line.refused
Lines = list[str]
CALLBACKS = "pytorch_lightning.callbacks"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Ends at T = 60, with a log line every 20 and 10 decisions in a batch."""
    content = tiny(pole=pole())
    content["model"]["T_max"] = 60
    return write(tmp_path / "tiny.yaml", content)


def ended(run: Run, config: Path, *words: str) -> Any:
    """The command line, with its files in ``folder``."""
    command, *rest = words if words and words[0] in ("test", "validate", "predict") else ("fit", *words)
    found: Any = run(command, "--config", config, *rest)
    found.folder = Path(found.trainer.default_root_dir)
    return found


# Those that work, each with what shows it

SHOWN: dict[str, str] = {  # option -> the test below that shows it
    option: test
    for test, options in {
        "test_a_run_ends_where_an_option_says": "max_epochs max_steps max_time limit_train_batches fast_dev_run",
        "test_options_that_the_trainer_has_as_they_were_given": (
            "accelerator devices num_nodes strategy benchmark deterministic precision default_root_dir"
        ),
        "test_a_limit_of_evaluations_counts_agents_and_ways_to_play": "limit_val_batches limit_test_batches",
        "test_a_limit_of_videos_counts_agents": "limit_predict_batches",
        "test_no_checkpoint_is_written_where_they_are_switched_off": "enable_checkpointing",
        "test_a_progress_bar_is_this_programs_or_the_one_named": "enable_progress_bar",
        "test_a_summary_of_the_model_is_printed": "enable_model_summary",
        "test_a_profile_is_printed": "profiler",
        "test_an_anomaly_is_traced_to_where_it_began": "detect_anomaly",
        "test_evaluation_without_inference_mode": "inference_mode",
        "test_a_plugin_is_used": "plugins",
        "test_callbacks_are_added_to": "callbacks",
        "test_loggers_are_those_named": "logger",
    }.items()
    for option in options.split()
}


@pytest.mark.parametrize(
    ("words", "clock"),
    [
        ("--trainer.max_epochs=2", 40),
        ("--trainer.limit_train_batches=3", 30),
        ("--trainer.limit_train_batches=3e0", 30),
        ("--trainer.limit_train_batches=2 --trainer.max_epochs=2", 40),
        ("--trainer.limit_train_batches=2 --trainer.max_epochs=-1", 60),
        ("--trainer.limit_train_batches=1.0", 60),
        ("--trainer.max_steps=5", 50),
        ("--trainer.fast_dev_run=true", 10),
        ("--trainer.fast_dev_run=3", 30),
    ],
)
def test_a_run_ends_where_an_option_says(words: str, clock: int, run: Run, config: Path) -> None:
    """With a checkpoint and a log line there, but for ``fast_dev_run``, which leaves nothing."""
    found = ended(run, config, *words.split())
    assert found.model.env_steps == {"pole": clock} and found.model.run_log.latest["env_steps"] == clock
    if "fast_dev_run" in words:
        assert not found.folder.exists()
        return
    assert [p.name for p in (found.folder / "checkpoints").iterdir()] == [f"env_steps={clock}.ckpt"]
    assert f",{clock}," in (found.folder / "metrics.csv").read_text().splitlines()[-1]


@pytest.mark.parametrize("words", ["--trainer.max_time=00:00:00:01", "--trainer.max_time.seconds=1"])
def test_max_time_ends_a_run(words: str, run: Run, config: Path) -> None:
    found = ended(run, config, words, "--T_max=1e9", "--model.log_every=1e9")
    clock = found.model.clock
    assert 0 < clock < 10**9 and found.model.run_log.latest["env_steps"] == clock
    assert [p.name for p in (found.folder / "checkpoints").iterdir()] == [f"env_steps={clock}.ckpt"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("accelerator=cpu", lambda trainer: trainer.accelerator.name() == "cpu"),
        ("accelerator=auto", lambda trainer: True),
        ("devices=2", lambda trainer: trainer.num_devices == 2 and isinstance(trainer.strategy, DDPStrategy)),
        ("num_nodes=2", lambda trainer: trainer.num_nodes == 2 and trainer.world_size == 2),
        ("strategy=ddp", lambda trainer: isinstance(trainer.strategy, DDPStrategy)),
        ("strategy=single_device", lambda trainer: trainer.world_size == 1),
        ("strategy.class_path=DDPStrategy", lambda trainer: isinstance(trainer.strategy, DDPStrategy)),
        ("benchmark=true", lambda trainer: torch.backends.cudnn.benchmark),
        ("deterministic=true", lambda trainer: torch.are_deterministic_algorithms_enabled()),
        ("deterministic=warn", lambda trainer: torch.is_deterministic_algorithms_warn_only_enabled()),
        ("precision=32", lambda trainer: trainer.precision == "32-true"),
        ("precision=bf16-mixed", lambda trainer: trainer.precision == "bf16-mixed"),
        ("default_root_dir=elsewhere", lambda trainer: Path(trainer.default_root_dir).parent.name == "elsewhere"),
        ("default_root_dir=null", lambda trainer: Path(trainer.default_root_dir).resolve().parent == Path.cwd()),
    ],
)
def test_options_that_the_trainer_has_as_they_were_given(
    word: str, value: Callable[[Any], bool], build: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    try:
        assert value(build("fit", "--config", config, f"--trainer.{word}").trainer)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("word", ["--trainer.deterministic=true", "--trainer.benchmark=true"])
def test_a_run_with_what_torch_is_told(word: str, run: Run, config: Path) -> None:
    try:
        assert ended(run, config, word).model.clock == 60
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize(("command", "option"), [("validate", "limit_val_batches"), ("test", "limit_test_batches")])
@pytest.mark.parametrize(
    ("limit", "scored"), [("1", {"sampled"}), ("0.5", {"sampled"}), ("1.0", {"sampled", "greedy"})]
)
def test_a_limit_of_evaluations_counts_agents_and_ways_to_play(
    command: str, option: str, limit: str, scored: set[str], run: Run, config: Path
) -> None:
    found = ended(run, config, command, "--episodes=1", f"--trainer.{option}={limit}")
    assert set(found.model.evaluator.scores["pole"]) == scored


def test_a_limit_of_videos_counts_agents(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: Lines = []
    monkeypatch.setattr(
        "cdrl_pl.training.evaluator.Evaluator.record", lambda self, job, folder: shown.append(job.agent)
    )
    monkeypatch.setattr("cdrl_pl.training.datamodule.check_drawn", lambda env: None)
    config = write(tmp_path / "two.yaml", tiny(one=pole(), two=pole()))
    ended(run, config, "predict", "--trainer.limit_predict_batches=1")
    assert shown == ["one"]


@pytest.mark.parametrize("named", [[], ["--trainer.callbacks+=callbacks.EnvStepsCheckpoint"]])
def test_no_checkpoint_is_written_where_they_are_switched_off(named: Lines, run: Run, config: Path) -> None:
    found = ended(run, config, *named, "--trainer.enable_checkpointing=false")
    assert found.model.clock == 60 and list(found.folder.rglob("*.ckpt")) == []


@pytest.mark.parametrize(
    ("words", "bars"),
    [
        ([], ["Progress"]),
        (["--trainer.enable_progress_bar=true"], ["Progress"]),
        (["--trainer.enable_progress_bar=false"], []),
        (["--trainer.enable_progress_bar=false", "--trainer.callbacks+=callbacks.Progress"], []),
        ([f"--trainer.callbacks+={CALLBACKS}.TQDMProgressBar"], ["TQDMProgressBar"]),
    ],
)
def test_a_progress_bar_is_this_programs_or_the_one_named(words: Lines, bars: Lines, build: Run, config: Path) -> None:
    made = [type(c).__name__ for c in build("fit", "--config", config, *words).trainer.callbacks]
    assert [name for name in made if "Progress" in name] == bars


def test_lightnings_bar_counts_the_batches_of_an_epoch(
    run: Run, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(run, config, f"--trainer.callbacks+={CALLBACKS}.TQDMProgressBar")
    written = capsys.readouterr()
    assert "Epoch 2:" in written.out + written.err and "2/3" in written.out + written.err


def test_a_summary_of_the_model_is_printed(run: Run, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value, said in (("true", True), ("false", False)):
        ended(run, config, f"--trainer.enable_model_summary={value}")
        assert ("Trainable params" in capsys.readouterr().out) == said


def test_a_profile_is_printed(run: Run, config: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        ended(run, config, "--trainer.profiler=simple")
    for action in ("train_dataloader_next", "run_training_batch", "run_training_epoch", "save_checkpoint"):
        assert action in caplog.text
    assert "Percentage" in caplog.text


def test_the_files_of_a_profiler_are_in_the_runs_folder(run: Run, config: Path) -> None:
    found = ended(run, config, "--trainer.profiler=pytorch_lightning.profilers.SimpleProfiler",
                  "--trainer.profiler.filename=profile", "--trainer.logger=false")  # fmt: skip
    assert "run_training_batch" in (found.folder / "fit-profile.txt").read_text()


class Anomaly(pl.Callback):
    """Makes the gradient of the value's loss NaN, where anomalies are looked for."""

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        head = module.agents["pole"].network.value_head
        head.register_forward_hook(lambda _, inputs, output: output + 0 * torch.sqrt(output - output))


def test_an_anomaly_is_traced_to_where_it_began(run: Run, config: Path) -> None:
    named = f"--trainer.callbacks+={__name__}.Anomaly"
    with pytest.raises(RuntimeError, match=r"SqrtBackward0.* returned nan values"):
        ended(run, config, named, "--trainer.detect_anomaly=true")
    assert ended(run, config, named).model.run_log.latest["skipped_steps/student/pole"] == 2  # of the last line


class Modes(pl.Callback):
    """Whether each evaluation was in inference mode."""

    seen: list[bool] = []

    def on_validation_batch_start(self, *_: Any) -> None:
        self.seen.append(torch.is_inference_mode_enabled())


def test_evaluation_without_inference_mode(run: Run, config: Path) -> None:
    for value, seen in (("true", [True, True]), ("false", [False, False])):
        Modes.seen = []
        ended(run, config, "validate", "--episodes=1", f"--trainer.callbacks+={__name__}.Modes",
              f"--trainer.inference_mode={value}")  # fmt: skip
        assert Modes.seen == seen


class OwnIO(TorchCheckpointIO):
    """Notes what is saved."""

    saved: Lines = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.saved.append(Path(path).name)


def test_a_plugin_is_used(run: Run, config: Path) -> None:
    OwnIO.saved = []
    ended(run, config, f"--trainer.plugins={__name__}.OwnIO")
    assert OwnIO.saved == ["env_steps=60.ckpt"]


def test_callbacks_are_added_to(build: Run, config: Path) -> None:
    trainer: Any = build("fit", "--config", config, f"--trainer.callbacks={__name__}.Modes").trainer
    made = [type(c).__name__ for c in trainer.callbacks]
    assert {"Modes", "AlignmentSchedule", "DistillationSchedule", "Progress", "EnvStepsCheckpoint"} < set(made)


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ([], ["Board", "CSVLogger"]),
        (["--trainer.logger=true"], ["Board", "CSVLogger"]),
        (["--trainer.logger=false"], []),
        (
            ["--trainer.logger=pytorch_lightning.loggers.TensorBoardLogger", "--trainer.logger.save_dir=logs"],
            ["TensorBoardLogger", "CSVLogger"],
        ),
    ],
)
def test_loggers_are_those_named(words: Lines, made: Lines, build: Run, config: Path) -> None:
    """Beside them there is always the table that reports read, unless there is to be none."""
    assert [type(logger).__name__ for logger in build("fit", "--config", config, *words).trainer.loggers] == made


# Those that are refused, each with its sentence

REFUSED: dict[str, list[tuple[Any, str]]] = {
    "accelerator": [("tpu", "it must be auto, cpu, gpu, cuda or mps")],
    "strategy": [
        (value, "it must be auto, single_device or ddp: every device has whole networks here")
        for value in ("fsdp", "ddp_spawn", "ddp_notebook", "deepspeed", "nonsense")
    ],
    "precision": [
        (value, "it must be 32-true, bf16-mixed or 16-mixed")
        for value in ("16-true", "bf16-true", "64-true", "64", "transformer-engine")
    ],
    "profiler": [("nonsense", "it must be simple, advanced or pytorch, or a class")],
    "max_epochs": [(-2, "it must be 0 or more, or -1 for any number")],
    "max_steps": [(-2, "it must be 0 or more, or -1 for any number")],
    "min_epochs": [(2, "a run ends at T_max, or where it is told to, and not later; leave it out")],
    "min_steps": [(2, "a run ends at T_max, or where it is told to, and not later; leave it out")],
    "limit_train_batches": [
        (value, "it must be a number of batches, 1 or more, or 1.0: rollouts are endless")
        for value in (0.5, 0, -3, 2.5)
    ],
    "overfit_batches": [
        (2, "no batch comes twice: every rollout is fresh; leave it out"),
        (0.5, "no batch comes twice"),
    ],
    "val_check_interval": [(5, "fit does not stop to evaluate; `validate` does"), (0.5, ""), ("00:00:01:00", "")],
    "check_val_every_n_epoch": [(5, "fit does not stop to evaluate; `validate` does"), ("null", "")],
    "num_sanity_val_steps": [(2, "fit does not stop to evaluate; `validate` does")],
    "log_every_n_steps": [(1, "a line is logged every model.log_every decisions; set that")],
    "accumulate_grad_batches": [(2, "a step is of one batch: data.pool.steps times data.pool.copies")],
    "gradient_clip_val": [(0.5, "gradients are clipped by model.agents.NAME.learner.max_grad_norm")],
    "gradient_clip_algorithm": [("value", "gradients are clipped by their norm; leave it out")],
    "use_distributed_sampler": [("true", "every rank plays environments of its own; leave it out")],
    "barebones": [("true", "set logger, enable_checkpointing, enable_progress_bar false instead")],
    "sync_batchnorm": [("true", "no network here has batch norm; leave it out")],
    "reload_dataloaders_every_n_epochs": [(1, "rollouts are always fresh; leave it out")],
    "enable_autolog_hparams": [("false", "nothing is logged by it: config.yaml has every option")],
    "model_registry": [("some", "checkpoints are files of a run's folder; leave it out")],
    "default_root_dir": [("s3://bucket/runs", "it must be a folder of this machine")],
}
CASES = [(option, value, said) for option, cases in REFUSED.items() for value, said in cases]


@pytest.mark.parametrize(("option", "value", "said"), CASES, ids=[f"{option}={value}" for option, value, _ in CASES])
def test_an_option_that_cannot_be_is_refused_in_a_sentence(
    option: str, value: Any, said: str, refused: Callable[..., str], config: Path, tmp_path: Path
) -> None:
    text = refused("--config", config, f"--trainer.{option}={value}")
    assert text.startswith(f"trainer.{option} is ") and said in text and text.count("\n") == 0
    assert not (tmp_path / "runs").exists()


def test_every_option_of_lightnings_is_shown_or_refused() -> None:
    options = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    assert {*SHOWN, *REFUSED} == options
    assert set(SHOWN.values()) <= set(globals())


IN_PYTHON: list[dict[str, Any]] = [
    {"precision": "64-true"},
    {"min_epochs": 2},
    {"limit_train_batches": 0.5},
    {"overfit_batches": 1},
    {"val_check_interval": 5},
    {"accumulate_grad_batches": 2},
    {"gradient_clip_val": 0.5},
    {"reload_dataloaders_every_n_epochs": 1},
    {"strategy": "ddp_spawn", "devices": 2},
]


@pytest.mark.parametrize("options", IN_PYTHON, ids=lambda options: next(iter(options)))
def test_a_trainer_made_in_python_is_checked_too(options: dict[str, Any], tmp_path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, **options)
    with pytest.raises(ConfigError, match=rf"^trainer\.{next(iter(options))} is "):
        check_trainer(trainer)


def test_a_trainer_of_defaults_passes(tmp_path: Path) -> None:
    check_trainer(pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path))
    check_trainer(pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, fast_dev_run=3))


def test_a_bar_of_lightnings_cannot_be_there_where_bars_are_off(refused: Callable[..., str], config: Path) -> None:
    said = refused(
        "--config", config, f"--trainer.callbacks+={CALLBACKS}.RichProgressBar", "--trainer.enable_progress_bar=false"
    )
    assert "RichProgressBar" in said


@pytest.mark.parametrize("monitor", ["retrun/pole", "val_loss"])
def test_a_monitor_that_no_line_has_is_refused(monitor: str, refused: Callable[..., str], tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", tiny(callback(f"{CALLBACKS}.EarlyStopping", monitor=monitor)))
    text = refused("--config", config)
    assert text.startswith(f"EarlyStopping.monitor is '{monitor}', which no log line has; did you mean")


def test_early_stopping_and_the_best_checkpoint_from_a_config(run: Run, tmp_path: Path) -> None:
    stop = callback(f"{CALLBACKS}.EarlyStopping", monitor="return/pole", mode="max", stopping_threshold=1.0)
    best = callback(f"{CALLBACKS}.ModelCheckpoint", monitor="return/pole", mode="max", filename="best")
    found = ended(run, write(tmp_path / "tiny.yaml", tiny(stop, best)))
    clock = found.model.clock
    assert clock < 120 and found.model.run_log.latest["return/pole"] > 1
    assert {p.name for p in (found.folder / "checkpoints").iterdir()} == {"best.ckpt", f"env_steps={clock}.ckpt"}
