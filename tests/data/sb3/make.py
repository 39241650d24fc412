"""Makes the files beside this one by the real library (``pip install stable-baselines3 sb3-contrib gymnasium[box2d]``).

Policies as ``model.save`` writes them, and what the library itself finds of each, in ``NAME_said.npz``: its policy's
logits (Q-values of DQN and QR-DQN) and values for 1,000 observations, of recurrent policies those of one game that does
not end, and the returns of 20 greedy episodes in the library's own environments. Optimizers are left out of the files.
A policy whose file is there is not trained again.
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
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize
from torch import nn

FOLDER = Path(__file__).parent
SMALL = {"net_arch": [32, 32]}
POLE, LANDER, PONG = "CartPole-v1", "LunarLander-v3", "PongNoFrameskip-v4"
OFF_POLICY = {
    "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000, "gamma": 0.99,
    "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04, "seed": 1,
}  # fmt: skip


def normalising(task: str, copies: int) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: gym.make(task)] * copies), norm_reward=False)


def masked() -> MaskablePPO:
    env = ActionMasker(gym.make(POLE), lambda env: np.ones(2, bool))
    return MaskablePPO("MlpPolicy", env, n_steps=256, learning_rate=1e-3, policy_kwargs={"net_arch": [16]}, seed=1)


def recurrent(env: Any, **options: Any) -> RecurrentPPO:
    small = {"net_arch": [16], "lstm_hidden_size": 16}
    return RecurrentPPO("MlpLstmPolicy", env, batch_size=256, policy_kwargs=small, seed=1, **options)


def screens(copies: int, **wrapper: Any) -> VecEnv:
    """As RL Zoo3 makes them: ``AtariWrapper``, and four frames together."""
    gym.register_envs(ale_py)
    return VecFrameStack(make_atari_env(PONG, n_envs=copies, seed=1, wrapper_kwargs=wrapper), 4)


def pong() -> PPO:
    small = {"features_extractor_kwargs": {"features_dim": 32}}
    return PPO(
        "CnnPolicy", screens(8), n_steps=128, n_epochs=4, batch_size=256, learning_rate=1e-3, clip_range=0.1,
        ent_coef=0.01, policy_kwargs=small, seed=1,
    )  # fmt: skip


MODELS: dict[str, tuple[str, int, Callable[[], Any]]] = {  # name -> task, decisions, model
    "ppo": (POLE, 50_000, lambda: PPO("MlpPolicy", POLE, n_steps=256, learning_rate=1e-3, policy_kwargs=SMALL, seed=1)),
    "a2c": (POLE, 50_000, lambda: A2C("MlpPolicy", POLE, policy_kwargs={**SMALL, "activation_fn": nn.ReLU}, seed=1)),
    "dqn": (POLE, 50_000, lambda: DQN("MlpPolicy", POLE, policy_kwargs=SMALL, **OFF_POLICY)),
    "qrdqn": (
        POLE, 50_000,
        lambda: QRDQN("MlpPolicy", POLE, policy_kwargs={"net_arch": [32, 24], "n_quantiles": 10}, **OFF_POLICY),
    ),
    "normalised": (
        POLE, 50_000,
        lambda: PPO(
            "MlpPolicy", normalising(POLE, 4), n_steps=64, learning_rate=1e-3, policy_kwargs=SMALL, seed=1
        ),
    ),
    "masked": (POLE, 20_000, masked),
    "recurrent": (POLE, 8_000, lambda: recurrent(POLE, n_steps=256, n_epochs=5, learning_rate=3e-3)),
    "lander_a2c": (
        LANDER, 200_000,
        lambda: A2C(
            "MlpPolicy", normalising(LANDER, 8), learning_rate=lambda left: left * 1e-3, gamma=0.995, ent_coef=1e-5,
            policy_kwargs=SMALL, seed=1,
        ),
    ),
    "lander_dqn": (
        LANDER, 100_000,
        lambda: DQN(
            "MlpPolicy", LANDER, learning_rate=6.3e-4, batch_size=128, buffer_size=50_000, learning_starts=1000,
            target_update_interval=250, gradient_steps=-1, exploration_fraction=0.12, exploration_final_eps=0.1,
            policy_kwargs={"net_arch": [64, 64]}, seed=1,
        ),
    ),
    "lander_recurrent": (
        LANDER, 100_000,
        lambda: recurrent(
            normalising(LANDER, 8), n_steps=256, n_epochs=5, learning_rate=2e-3, gamma=0.995, gae_lambda=0.98
        ),
    ),
    "pong": (PONG, 8_192, pong),
}  # fmt: skip


def observations(task: str, count: int = 1000) -> np.ndarray:
    random = np.random.default_rng(0)
    scale = {POLE: (1.0, 1.0, 0.1, 1.0), LANDER: (0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 1.0, 1.0)}[task]
    return random.normal(0.0, scale, (count, len(scale))).astype(np.float32)


def played(model: PPO, count: int = 1000) -> dict[str, np.ndarray]:
    """A game through the library's own wrappers: single frames, and what was done after each.

    No no-ops are played, and a game goes on where a life is lost, so that the course can be had again.
    """
    env = screens(1, noop_max=0, terminal_on_life_loss=False, clip_reward=False)
    obs, frames, actions = env.reset(), [], []
    for _ in range(count + 3):
        frames.append(obs[0, ..., -1])
        action, _ = model.predict(obs)
        actions.append(action[0])
        obs, _, _, _ = env.step(action)
    return {"frames": np.stack(frames), "actions": np.array(actions, np.uint8)}


def stacked(frames: np.ndarray) -> np.ndarray:
    """Four frames together, the newest last: [N + 3, H, W] -> [N, 4, H, W]."""
    return np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0).transpose(0, 3, 1, 2)


@torch.no_grad()
def said(model: Any, obs: np.ndarray) -> dict[str, np.ndarray]:
    """What the library's own policy says: logits, and values where it has them."""
    policy = model.policy
    if (normaliser := model.get_vec_normalize_env()) is not None:
        obs = normaliser.normalize_obs(obs).astype(np.float32)
    tensor = torch.from_numpy(obs.copy())
    if isinstance(model, QRDQN):
        return {"logits": policy.quantile_net(tensor).mean(1).numpy()}
    if isinstance(model, DQN):
        return {"logits": policy.q_net(tensor).numpy()}
    if isinstance(model, RecurrentPPO):
        logits, state = [], None
        for row in tensor[:, None]:
            begins = torch.tensor([float(state is None)])
            state = state or (torch.zeros(1, 1, 16), torch.zeros(1, 1, 16))
            distribution, state = policy.get_distribution(row, state, begins)
            logits.append(distribution.distribution.logits)
        return {"logits": torch.cat(logits).numpy()}
    logits = policy.get_distribution(tensor).distribution.logits
    return {"logits": logits.numpy(), "values": policy.predict_values(tensor).squeeze(-1).numpy()}


def returns(model: Any, task: str, episodes: int = 20) -> np.ndarray:
    """Of greedy episodes in the library's own environments; of Pong, those of the training wrappers but unclipped."""
    if task == PONG:
        env: VecEnv = screens(1, terminal_on_life_loss=False, clip_reward=False)
        episodes //= 4
    else:
        env = DummyVecEnv([lambda: gym.make(task)])
        env.seed(7)
        if (seen := model.get_vec_normalize_env()) is not None:
            env = VecNormalize(env, training=False, norm_reward=False)
            env.obs_rms = seen.obs_rms
    found, _ = evaluate_policy(model, env, episodes, deterministic=True, return_episode_rewards=True, warn=False)
    return np.array(found)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or MODELS:
        task, decisions, make = MODELS[name]
        model, path, statistics = make(), FOLDER / f"{name}.zip", FOLDER / f"{name}_statistics.npz"
        normaliser = model.get_vec_normalize_env()
        if path.exists():
            model.set_parameters(path, exact_match=False, device="cpu")
            if normaliser is not None:
                with np.load(statistics) as file:
                    normaliser.obs_rms.mean, normaliser.obs_rms.var = file["mean"], file["var"]
        else:
            model.learn(decisions)
            model.save(path, exclude=["replay_buffer"])
            without("policy.optimizer.pth", path)
            if normaliser is not None:
                np.savez(statistics, mean=normaliser.obs_rms.mean, var=normaliser.obs_rms.var)
        found = played(model) if task == PONG else {}
        obs = stacked(found["frames"]) if task == PONG else observations(task)
        scores = returns(model, task)
        np.savez_compressed(FOLDER / f"{name}_said.npz", **found, **said(model, obs), returns=scores)
        print(f"{name}: {scores.mean():.2f} +- {scores.std():.2f}, greedy, {len(scores)} episodes")


def without(member: str, path: Path) -> None:
    """Leaves a member of a zip file out."""
    with zipfile.ZipFile(path) as file:
        kept = {name: file.read(name) for name in file.namelist() if name != member}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in kept.items():
            file.writestr(name, content)


if __name__ == "__main__":
    main(sys.argv[1:])
