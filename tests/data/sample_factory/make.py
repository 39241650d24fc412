"""Makes the folders beside this file by the real library (``pip install sample-factory "gymnasium<1" ale-py``).

Experiments of CartPole with a GRU, an LSTM and no memory, and a short one of Atari Pong by its own wrappers and
convolutions, each with its ``config.json`` and a checkpoint (of Pong without its optimizer), and what the library's own
model says: logits and values of 1,000 observations, of those with memory of one game that does not end, and the returns
of greedy episodes in its own environments. An experiment that is there is not trained again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import sf_examples.atari.atari_utils as atari
import torch
from sample_factory.algo.utils.make_env import make_env_func_batched
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.cfg.arguments import load_from_checkpoint, parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.train import run_rl
from sample_factory.utils.attr_dict import AttrDict
from sf_examples.atari.atari_params import atari_override_defaults

FOLDER = Path(__file__).parent
COMMON = [
    "--algo=APPO", "--device=cpu", "--serial_mode=True", "--async_rl=False", "--num_workers=1",
    "--num_envs_per_worker=8", "--worker_num_splits=1", "--seed=1", "--with_wandb=False", "--save_every_sec=5",
    "--experiment_summaries_interval=5", "--keep_checkpoints=1",
]  # fmt: skip
POLE = [
    *COMMON, "--env=cartpole", "--rollout=32", "--batch_size=256", "--learning_rate=0.003", "--gamma=0.99",
    "--exploration_loss_coeff=0.001", "--train_for_env_steps=60000", "--save_best_every_sec=3",
    "--save_best_after=20000", "--reward_scale=0.1",
]  # fmt: skip
MODELS = {
    "gru": [*POLE, "--use_rnn=True", "--rnn_type=gru", "--rnn_size=16", "--encoder_mlp_layers", "24"],
    "lstm": [*POLE, "--use_rnn=True", "--rnn_type=lstm", "--rnn_size=16", "--encoder_mlp_layers", "24", "16"],
    "plain": [
        *POLE, "--use_rnn=False", "--encoder_mlp_layers", "32", "--decoder_mlp_layers", "24", "--nonlinearity=tanh",
    ],
    "pong": [
        *COMMON, "--env=atari_pong", "--train_for_env_steps=16384", "--learning_rate=0.001",
        "--encoder_conv_mlp_layers", "32",
    ],
}  # fmt: skip


def cartpole(name: str, config: AttrDict, env_config: AttrDict, render_mode: str | None = None) -> gym.Env:
    return gym.make("CartPole-v1")


def pong(name: str, config: AttrDict, env_config: AttrDict | None, render_mode: str | None = None) -> gym.Env:
    """The library's own; an ale-py that has ROMs registers its games with newer gymnasiums alone."""
    if "PongNoFrameskip-v4" not in gym.registry:
        options = {"game": "pong", "obs_type": "rgb", "frameskip": 1, "repeat_action_probability": 0.0}
        gym.register("PongNoFrameskip-v4", "ale_py.env:AtariEnv", max_episode_steps=400_000, kwargs=options)
    return atari.make_atari_env(name, config, env_config, render_mode)


def observations(count: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, (1.0, 1.0, 0.1, 1.0), (count, 4)).astype(np.float32)


def configured(name: str, folder: Path) -> AttrDict:
    words = [*MODELS[name], f"--experiment={name}", f"--train_dir={folder}"]
    parser, known = parse_sf_args(words)
    if name == "pong":
        atari_override_defaults(known.env, parser)
    return parse_full_cfg(parser, words)


class Policy:
    """The library's own model of a checkpoint.

    Args:
        config: of the experiment.
        state: of the model.
    """

    def __init__(self, config: AttrDict, state: dict[str, torch.Tensor]) -> None:
        env = make_env_func_batched(config, AttrDict(worker_index=0, vector_index=0, env_id=0))
        self.model = create_actor_critic(config, env.observation_space, env.action_space).eval()
        self.model.load_state_dict(state)
        self.size = get_rnn_size(config)
        self.begin()

    def begin(self) -> None:
        """Forgets what was seen."""
        self.state = torch.zeros(1, self.size)

    @torch.no_grad()
    def __call__(self, obs: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [1, A] and value [1] of one observation."""
        seen = prepare_and_normalize_obs(self.model, {"obs": torch.from_numpy(np.array(obs)[None])})
        out = self.model(seen, self.state)
        self.state, values = out["new_rnn_states"], out["values"].view(1, 1)
        if self.model.returns_normalizer is not None:
            self.model.returns_normalizer(values, denormalize=True)
        return out["action_logits"], values[0]


def played(policy: Policy, config: AttrDict, count: int = 1000) -> dict[str, np.ndarray]:
    """A game through the library's own wrappers but for random no-ops: single frames, and what was done after each."""
    inner, atari.NoopResetEnv = atari.NoopResetEnv, lambda env, noop_max: env
    env = pong("atari_pong", config, None)
    atari.NoopResetEnv = inner
    random, frames, actions = torch.Generator().manual_seed(0), [], []
    obs, _ = env.reset(seed=0)
    for _ in range(count + 3):
        frames.append(np.array(obs)[-1])
        action = int(torch.multinomial(policy(obs)[0].softmax(-1), 1, generator=random))
        actions.append(action)
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
    return {"frames": np.stack(frames), "actions": np.array(actions, np.uint8)}


def said(policy: Policy, obs: np.ndarray) -> dict[str, np.ndarray]:
    policy.begin()
    logits, values = zip(*(policy(row) for row in obs), strict=True)
    return {"logits": torch.cat(logits).numpy(), "values": torch.cat(values).numpy()}


def returns(policy: Policy, config: AttrDict) -> np.ndarray:
    """Of greedy episodes in the library's own environments (of Pong, rewards are -1, 0 and 1 anyhow)."""
    found = []
    env = pong("atari_pong", config, None) if config.env == "atari_pong" else gym.make("CartPole-v1")
    for episode in range(5 if config.env == "atari_pong" else 20):
        policy.begin()
        (obs, _), total, ended = env.reset(seed=episode), 0.0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(int(policy(obs)[0].argmax()))
            total, ended = total + reward, terminated or truncated
        found.append(total)
    return np.array(found)


def trained(name: str) -> None:
    """The experiment's config, which names no folder of this machine, and its best checkpoint, or else its last."""
    config = configured(name, Path("train_dir").absolute())
    run_rl(config)
    made = Path(config.train_dir) / name
    kind = "checkpoint" if name == "pong" else "best"
    path = sorted((made / "checkpoint_p0").glob(f"{kind}_*.pth"))[-1]
    (FOLDER / name / "checkpoint_p0").mkdir(parents=True)
    checkpoint = torch.load(path, weights_only=False)
    if name == "pong":
        del checkpoint["optimizer"]
    torch.save(checkpoint, FOLDER / name / "checkpoint_p0" / path.name)
    plain = (made / "config.json").read_text().replace(config.train_dir, "train_dir")
    (FOLDER / name / "config.json").write_text(plain)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    register_env("cartpole", cartpole)
    register_env("atari_pong", pong)
    for name in names or MODELS:
        if not (FOLDER / name / "config.json").exists():
            trained(name)
        config = load_from_checkpoint(configured(name, FOLDER))
        (path,) = (FOLDER / name / "checkpoint_p0").glob("*.pth")
        policy = Policy(config, torch.load(path, weights_only=False)["model"])
        found = played(policy, config) if name == "pong" else {}
        stacks = np.lib.stride_tricks.sliding_window_view(found["frames"], 4, axis=0) if found else None
        obs = observations() if stacks is None else stacks.transpose(0, 3, 1, 2)
        scores = returns(policy, config)
        np.savez_compressed(FOLDER / name / "said.npz", **found, **said(policy, obs), returns=scores)
        print(f"{name}: {scores.mean():.2f} +- {scores.std():.2f}, greedy, {len(scores)} episodes")


if __name__ == "__main__":
    main(sys.argv[1:])
