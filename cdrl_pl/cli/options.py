"""Short options with their help, refusals, and plain parsers for ``experiment`` and ``report``. Torch-free."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from cdrl_pl.spelling import nearest

SCRIPT = "cdrl"  # what pip installs; it does the same
PROGRAM = SCRIPT if sys.argv[0].rpartition("/")[2] == SCRIPT else "python -m cdrl_pl"


class Short(NamedTuple):
    """A short option of fit, validate, test and predict.

    Attributes:
        value: what stands for its value in the help.
        help: what it sets, with its unit.
        stands_for: the option that it is another name of; None: it is read before any other option.
    """

    value: str
    help: str
    stands_for: str | None = None


SHORT = {
    "--T1": Short("N", "decisions of the student at which alignment training starts, for every transfer", "--model.T1"),
    "--T2": Short("N", "decisions of the student at which distillation starts, for every transfer", "--model.T2"),
    "--stop": Short("N", 'decisions of the student at which both end, for every transfer, or "never"', "--model.stop"),
    "--T_max": Short("N", "decisions of every agent at which the run ends", "--model.T_max"),
    "--workers": Short("N", "environment worker processes per agent", "--data.pool.workers"),
    "--copies": Short("N", "environment copies per worker", "--data.pool.copies"),
    "--seed": Short("N", "seed of everything, without unit (without it: 0)", "--seed_everything"),
    "--precision": Short("P", "32-true, bf16-mixed or 16-mixed", "--trainer.precision"),
    "--devices": Short("N", "devices to train on; with --trainer.strategy ddp for several", "--trainer.devices"),
    "--teacher": Short("F", "(test, validate, predict) a certificated teacher's folder instead of a config ..."),
    "--env": Short("ID", "... and the task it plays, its own unless given"),
    "--trust": Short("A,B", "... and packages from which what its certificate names may be imported"),
    "--episodes": Short(
        "N", "(test, validate) episodes per agent and way of choosing actions", "--data.evaluation_episodes"
    ),
    "--imports": Short(
        "A,B", "refuse configs that would import anything but what is in these packages, before any import"
    ),
}
LEARNER, ENVIRONMENT, NETWORK = (f"--model.agents.NAME.{part}." for part in ("learner", "env", "network"))
# Words of the field that other programs have as options -> the option of this one.
ELSEWHERE = {
    word: option
    for words, option in (
        ("lr learning_rate", f"{LEARNER}lr"),
        ("gamma discount discount_factor", f"{LEARNER}gamma"),
        ("lam lambda gae_lambda", f"{LEARNER}lam"),
        ("ent_coef entropy_coef entropy_coeff entropy_cost", f"{LEARNER}entropy_coef"),
        ("vf_coef value_coef value_loss_coef baseline_cost", f"{LEARNER}value_coef"),
        ("max_grad_norm grad_clip grad_norm_clipping gradient_clip_val", f"{LEARNER}max_grad_norm"),
        ("total_timesteps total_steps timesteps num_timesteps max_steps num_env_steps", "--T_max (decisions)"),
        ("epochs num_epochs max_epochs iterations num_iterations", "--T_max (decisions)"),
        ("n_steps num_steps rollout_length unroll_length horizon", "--data.pool.steps"),
        ("batch_size minibatch_size", "--data.pool.steps times --copies"),
        ("n_envs num_envs envs num_environments", "--workers times --copies"),
        ("num_workers n_workers num_actors actors processes num_processes", "--workers"),
        ("env_id env_name environment game", f"{ENVIRONMENT}id"),
        ("frame_skip frameskip", f"{ENVIRONMENT}frame_skip"),
        ("hidden hidden_size hidden_dim", f"{NETWORK}hidden"),
        ("device gpu gpus num_gpus", "--devices and --trainer.accelerator"),
        ("random_seed", "--seed"),
        ("log_interval log_freq log_every_n_steps", "--model.log_every"),
        ("output_dir log_dir logdir save_dir tensorboard_log", "--trainer.default_root_dir"),
        ("resume checkpoint ckpt load resume_from", "--ckpt_path"),
        ("num_episodes n_episodes eval_episodes n_eval_episodes", "--episodes"),
    )
    for word in words.split()
}
SEED = "seed of environments, actions and networks, without unit; true or nothing: PL_GLOBAL_SEED, or else 0"
TRACK = (
    "(fit) wandb, mlflow or trackio, each an extra: logs there as well, with config, fingerprint, versions, "
    "certificates and a report; the tracker's own variables (WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR) hold"
)
CKPT_PATH = (
    "resume from (fit) or evaluate (the others) a checkpoint, or the newest whole one of a run's folder; options given "
    "beside it hold"
)
EPOCH = "an epoch is what lies between two log lines, model.log_every decisions, or limit_train_batches batches"
TRAINER = {  # what is said of the trainer's options that mean something else, or more, in this program
    "accelerator": "auto, cpu, gpu, cuda or mps",
    "callbacks": (
        "callbacks by class path: Lightning's own, and of cdrl_pl.callbacks ActionDistributions, AlignmentSchedule, "
        "CertificatedTeacher, DistillationSchedule, EnvStepsCheckpoint, Progress and StoredAlignment; fit adds the "
        "ones that every training needs; EarlyStopping and ModelCheckpoint watch the log's columns"
    ),
    "default_root_dir": "folder in which every run gets a folder of its own, version_N, whatever its loggers",
    "enable_checkpointing": "false: no EnvStepsCheckpoint",
    "enable_progress_bar": "false: no Progress; it gives way to a bar of Lightning's among the callbacks",
    "fast_dev_run": "true, or N: one batch or N, without logs and checkpoints; leaves no folder",
    "limit_predict_batches": "videos at most, or the share of them; each is of one agent",
    "limit_test_batches": "evaluations at most, or the share of them; each is of one agent, sampled or greedy",
    "limit_train_batches": "batches (updates) of an epoch; without max_epochs, the run ends after one such epoch",
    "limit_val_batches": "as limit_test_batches, for validate",
    "logger": (
        "loggers by class path; null or true: TensorBoard and a CSV file in the run's folder; false: none; beside "
        "those named there is the CSV file, which report reads"
    ),
    "max_epochs": f"epochs after which the run ends, if not at T_max; -1: any number; {EPOCH}",
    "max_steps": "optimizer steps, those of all optimizers, after which the run ends, at a batch's end; -1: any number",
    "max_time": "DD:HH:MM:SS of training, resumed runs counted, after which the run ends, at a batch's end",
    "precision": "32-true, bf16-mixed or 16-mixed",
    "profiler": "simple, advanced or pytorch, or a class path; files go to the run's folder",
    "strategy": "auto, single_device or ddp",
}
NESTED = (
    "Options within an option, such as those of one agent's learner, are listed by their own help: "
    "--model.agents.learner.help, --model.transfers.weight.help, --data.pool.help; those of a callback by "
    "--trainer.callbacks.help=cdrl_pl.callbacks.CertificatedTeacher."
)


class OptionParser(argparse.ArgumentParser):
    """An argument parser of one command that refuses in the words of the other commands.

    Args:
        command: its name.
        description: for its help.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=f"{PROGRAM} {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        refuse(message, self.prog)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments; ends with exit code 2 and the nearest option where one is not known."""
        unknown = [word.partition("=")[0] for word in arguments if word.startswith("--")]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in unknown:
            if word not in known:
                self.error(f"there is no option {word}{nearest(word, known)}")
        return self.parse_args(arguments)


def refuse(message: str, program: str) -> NoReturn:
    """Says what is wrong and where to look, and ends with exit code 2."""
    sys.stderr.write(f"error: {message}\n{program} --help lists every option\n")
    raise SystemExit(2)
