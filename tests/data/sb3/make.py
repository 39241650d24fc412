"""Makes the files beside this one by the real library (``pip install stable-baselines3 sb3-contrib``).

Policies as ``model.save`` writes them, and what the library's own policies say of 1,000 observations: logits (Q-values
of DQN and QR-DQN) and values. Of the recurrent policy they are those of one game that does not end; of the one for
pictures, of 20 pictures, and its optimizer is left out of the file, which is small enough without.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

FOLDER = Path(__file__).parent
SMALL = {"net_arch": [32, 32]}
POLE, OFF_POLICY = "CartPole-v1", {
    "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000, "gamma": 0.99,
    "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04, "seed": 1,
}  # fmt: skip


def normalised() -> PPO:
    vector = VecNormalize(DummyVecEnv([lambda: gym.make(POLE)] * 4), norm_reward=False)
    return PPO("MlpPolicy", vector, n_steps=64, learning_rate=1e-3, policy_kwargs=SMALL, seed=1)


def masked() -> MaskablePPO:
    env = ActionMasker(gym.make(POLE), lambda env: np.ones(2, bool))
    return MaskablePPO("MlpPolicy", env, n_steps=256, learning_rate=1e-3, policy_kwargs={"net_arch": [16]}, seed=1)


def pictures() -> A2C:
    gym.register_envs(ale_py)
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=1), 4)
    small = {"features_extractor_kwargs": {"features_dim": 16}}
    return A2C("CnnPolicy", env, policy_kwargs=small, seed=1)


MODELS: dict[str, tuple[int, Callable[[], Any]]] = {  # name -> decisions, model
    "ppo": (50_000, lambda: PPO("MlpPolicy", POLE, n_steps=256, learning_rate=1e-3, policy_kwargs=SMALL, seed=1)),
    "a2c": (50_000, lambda: A2C("MlpPolicy", POLE, policy_kwargs={**SMALL, "activation_fn": nn.ReLU}, seed=1)),
    "dqn": (50_000, lambda: DQN("MlpPolicy", POLE, policy_kwargs=SMALL, **OFF_POLICY)),
    "qrdqn": (
        50_000,
        lambda: QRDQN("MlpPolicy", POLE, policy_kwargs={"net_arch": [32, 24], "n_quantiles": 10}, **OFF_POLICY),
    ),
    "normalised": (50_000, normalised),
    "masked": (20_000, masked),
    "recurrent": (
        8_000,
        lambda: RecurrentPPO(
            "MlpLstmPolicy", POLE, n_steps=256, batch_size=256, n_epochs=5, learning_rate=3e-3, seed=1,
            policy_kwargs={"net_arch": [16], "lstm_hidden_size": 16},
        ),
    ),
    "pictures": (200, pictures),
}  # fmt: skip


def observations(count: int = 1000) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(0.0, (1.0, 1.0, 0.1, 1.0), (count, 4)).astype(np.float32)


def screens(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 84, 84), np.uint8)


@torch.no_grad()
def said(name: str, model: Any) -> dict[str, np.ndarray]:
    """What the library's own policy says: logits, and values where it has them."""
    policy, obs = model.policy, observations()
    if name == "normalised":
        obs = model.get_vec_normalize_env().normalize_obs(obs).astype(np.float32)
    tensor = torch.from_numpy(screens() if name == "pictures" else obs)
    if name == "dqn":
        return {"logits": policy.q_net(tensor).numpy()}
    if name == "qrdqn":
        return {"logits": policy.quantile_net(tensor).mean(1).numpy()}
    if name == "recurrent":
        logits, state = [], None
        for row in tensor[:, None]:
            begins = torch.tensor([float(state is None)])
            state = state or (torch.zeros(1, 1, 16), torch.zeros(1, 1, 16))
            distribution, state = policy.get_distribution(row, state, begins)
            logits.append(distribution.distribution.logits)
        return {"logits": torch.cat(logits).numpy()}
    logits = policy.get_distribution(tensor).distribution.logits
    return {"logits": logits.numpy(), "values": policy.predict_values(tensor).squeeze(-1).numpy()}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or MODELS:
        decisions, make = MODELS[name]
        model = make()
        model.learn(decisions)
        model.save(FOLDER / name, exclude=["replay_buffer"])
        np.savez_compressed(FOLDER / f"{name}_said.npz", **said(name, model))
        if name == "normalised":
            statistics = model.get_vec_normalize_env().obs_rms
            np.savez(FOLDER / "normalised_statistics.npz", mean=statistics.mean, var=statistics.var)
        if name == "pictures":
            without("policy.optimizer.pth", FOLDER / "pictures.zip")


def without(member: str, path: Path) -> None:
    """Leaves a member of a zip file out."""
    with zipfile.ZipFile(path) as file:
        kept = {name: file.read(name) for name in file.namelist() if name != member}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in kept.items():
            file.writestr(name, content)


if __name__ == "__main__":
    main(sys.argv[1:])
