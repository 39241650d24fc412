"""Makes the files beside this one by the real library: ``pip install stable-baselines3`` and ``python make.py``.

Policies of CartPole as ``model.save`` writes them, and what the library's own policies say of 1,000 observations: logits
(Q-values of DQN) and values.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

FOLDER = Path(__file__).parent
SMALL = {"net_arch": [32, 32]}


def observations(count: int = 1000) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(0.0, (1.0, 1.0, 0.1, 1.0), (count, 4)).astype(np.float32)


def main() -> None:
    vector = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 4), norm_reward=False)
    models = {
        "ppo": PPO("MlpPolicy", "CartPole-v1", n_steps=256, learning_rate=1e-3, policy_kwargs=SMALL, seed=1),
        "a2c": A2C("MlpPolicy", "CartPole-v1", policy_kwargs={**SMALL, "activation_fn": nn.ReLU}, seed=1),
        "dqn": DQN(
            "MlpPolicy", "CartPole-v1", learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000,
            gamma=0.99, target_update_interval=10, train_freq=256, gradient_steps=128, exploration_fraction=0.16,
            exploration_final_eps=0.04, policy_kwargs=SMALL, seed=1,
        ),
        "normalised": PPO("MlpPolicy", vector, n_steps=64, learning_rate=1e-3, policy_kwargs=SMALL, seed=1),
    }  # fmt: skip
    obs = observations()
    for name, model in models.items():
        model.learn(50_000)
        model.save(FOLDER / name, exclude=["replay_buffer"])
        seen = vector.normalize_obs(obs).astype(np.float32) if name == "normalised" else obs
        with torch.no_grad():
            if name == "dqn":
                logits, values = model.policy.q_net(torch.from_numpy(seen)), torch.zeros(len(obs))
            else:
                policy = model.policy
                logits = policy.get_distribution(torch.from_numpy(seen)).distribution.logits
                values = policy.predict_values(torch.from_numpy(seen)).squeeze(-1)
        np.savez_compressed(FOLDER / f"{name}_said.npz", logits=logits.numpy(), values=values.numpy())
    np.savez(FOLDER / "normalised_statistics.npz", mean=vector.obs_rms.mean, var=vector.obs_rms.var)


if __name__ == "__main__":
    main()
