"""Makes the files beside this one: ``python make.py CHECKOUT``, in an environment in which that checkout's scripts run.

CHECKOUT is one of https://github.com/vwxyzjn/cleanrl, whose ``dqn.py`` first trains and saves a model:

    python cleanrl/dqn.py --env-id CartPole-v1 --total-timesteps 30000 --seed 1 --save-model --learning-starts 1000
        --exploration-fraction 0.3 --learning-rate 1e-3

What the script's own network says of 1,000 observations is written beside a copy of it.
"""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import torch

FOLDER = Path(__file__).parent


@torch.no_grad()
def main(checkout: Path) -> None:
    path = max(checkout.glob("runs/CartPole-v1__dqn__*/dqn.cleanrl_model"), key=lambda path: path.stat().st_mtime)
    shutil.copy(path, FOLDER)
    env = gym.make("CartPole-v1")
    spaces = SimpleNamespace(single_observation_space=env.observation_space, single_action_space=env.action_space)
    network = runpy.run_path(str(checkout / "cleanrl" / "dqn.py"))["QNetwork"](spaces)
    network.load_state_dict(torch.load(path, weights_only=True))
    obs = np.random.default_rng(0).normal(0.0, (1.0, 1.0, 0.1, 1.0), (1000, 4)).astype(np.float32)
    np.savez_compressed(FOLDER / "dqn_said.npz", q=network(torch.from_numpy(obs)).numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
