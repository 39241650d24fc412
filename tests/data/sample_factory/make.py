"""Makes the folders beside this file by the real library (``pip install sample-factory "gymnasium<1"``).

Experiments of CartPole with a GRU, an LSTM and no memory, each with its ``config.json`` and its best checkpoint, and
what the library's own model says of 200 observations of one game that does not end: logits and values.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from sample_factory.algo.utils.make_env import make_env_func_batched
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.cfg.arguments import load_from_checkpoint, parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.train import run_rl
from sample_factory.utils.attr_dict import AttrDict

FOLDER = Path(__file__).parent
COMMON = [
    "--algo=APPO", "--env=cartpole", "--device=cpu", "--serial_mode=True", "--async_rl=False", "--num_workers=1",
    "--num_envs_per_worker=8", "--worker_num_splits=1", "--rollout=32", "--batch_size=256", "--learning_rate=0.003",
    "--gamma=0.99", "--exploration_loss_coeff=0.001", "--train_for_env_steps=60000", "--seed=1", "--with_wandb=False",
    "--save_every_sec=5", "--save_best_every_sec=3", "--save_best_after=20000", "--reward_scale=0.1",
    "--experiment_summaries_interval=5", "--keep_checkpoints=1",
]  # fmt: skip
MODELS = {
    "gru": ["--use_rnn=True", "--rnn_type=gru", "--rnn_size=16", "--encoder_mlp_layers", "24"],
    "lstm": ["--use_rnn=True", "--rnn_type=lstm", "--rnn_size=16", "--encoder_mlp_layers", "24", "16"],
    "plain": ["--use_rnn=False", "--encoder_mlp_layers", "32", "--decoder_mlp_layers", "24", "--nonlinearity=tanh"],
}


def cartpole(name: str, config: AttrDict, env_config: AttrDict, render_mode: str | None = None) -> gym.Env:
    return gym.make("CartPole-v1")


def observations(count: int = 200) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, (1.0, 1.0, 0.1, 1.0), (count, 4)).astype(np.float32)


def configured(name: str, folder: Path) -> AttrDict:
    words = [*COMMON, f"--experiment={name}", f"--train_dir={folder}", *MODELS[name]]
    parser, _ = parse_sf_args(words)
    return parse_full_cfg(parser, words)


@torch.no_grad()
def said(config: AttrDict, path: Path) -> dict[str, np.ndarray]:
    config = load_from_checkpoint(config)
    env = make_env_func_batched(config, AttrDict(worker_index=0, vector_index=0, env_id=0))
    model = create_actor_critic(config, env.observation_space, env.action_space).eval()
    model.load_state_dict(torch.load(path, weights_only=False)["model"])
    state, logits, values = torch.zeros(1, get_rnn_size(config)), [], []
    for row in observations():
        seen = prepare_and_normalize_obs(model, {"obs": torch.from_numpy(row[None])})
        out = model(seen, state)
        logits.append(out["action_logits"])
        values.append(out["values"].view(1, 1))
        state = out["new_rnn_states"]
    values = torch.cat(values)
    if model.returns_normalizer is not None:
        model.returns_normalizer(values, denormalize=True)
    return {"logits": torch.cat(logits).numpy(), "values": values.squeeze(-1).numpy()}


def main(names: list[str]) -> None:
    register_env("cartpole", cartpole)
    for name in names or MODELS:
        config = configured(name, Path("train_dir").absolute())
        run_rl(config)
        made = Path(config.train_dir) / name
        path = sorted((made / "checkpoint_p0").glob("best_*.pth"))[-1]
        (FOLDER / name / "checkpoint_p0").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, FOLDER / name / "checkpoint_p0")
        plain = (made / "config.json").read_text().replace(config.train_dir, "train_dir")
        (FOLDER / name / "config.json").write_text(plain)
        np.savez_compressed(FOLDER / name / "said.npz", **said(config, path))


if __name__ == "__main__":
    main(sys.argv[1:])
