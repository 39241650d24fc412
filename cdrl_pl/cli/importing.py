"""The command line of imports: ``python -m cdrl_pl import FORMAT FILE --env ID --out FOLDER``."""

from __future__ import annotations

import math
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cdrl_pl.agents.certificate import save_certificate
from cdrl_pl.checks import SEEDS, ConfigError, is_seed
from cdrl_pl.cli.options import PROGRAM, OptionParser
from cdrl_pl.envs import resolve, with_noops
from cdrl_pl.evaluation.display import EvaluationDisplay, table
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.evaluation.score import Score
from cdrl_pl.importing.cleanrl import read_cleanrl
from cdrl_pl.importing.onnx import read_onnx
from cdrl_pl.importing.policy import ImportedPolicy
from cdrl_pl.importing.proof import NOOP_MAX, Proof, causes, prove, temperature_for
from cdrl_pl.importing.sample_factory import read_sample_factory
from cdrl_pl.importing.sb3 import read_sb3
from cdrl_pl.importing.task import as_its_library, checked, read_mapping, read_task
from cdrl_pl.importing.tensors import read_statistics
from cdrl_pl.networks import ONNX, PolicyNetwork
from cdrl_pl.onnx.network import OnnxNetwork
from cdrl_pl.storage.atomic import disk_full
from cdrl_pl.storage.stored import CERTIFICATE
from cdrl_pl.system.hardware import evaluation_processes
from cdrl_pl.system.stop import Stopped, StopRequest

FORMATS: dict[str, Callable[..., ImportedPolicy]] = {
    "sb3": read_sb3,
    "cleanrl": read_cleanrl,
    "sample_factory": read_sample_factory,
    "onnx": read_onnx,
}
ABOUT = """\
Makes a certificated teacher of a policy that another library has trained: its weights go into a network of this
program, it plays its game, and what it scores goes into its certificate. Nothing in the file is executed.

  import sb3 ppo-LunarLander-v3.zip --env LunarLander-v3 --out teachers/lunar --expect 250
  import sb3 dqn-Pong.zip --env PongNoFrameskip-v4 --out teachers/pong_dqn --expect 20.7
  import sb3 model.zip --env '{id: CartPole-v1, max_episode_steps: 200}' --statistics seen.npz --out teachers/pole

Formats:
  sb3      Stable-Baselines3 and sb3-contrib 2.x: PPO, A2C, DQN, QR-DQN, RecurrentPPO, MaskablePPO
  cleanrl  its scripts dqn, dqn_atari, qdagger_dqn_atari_impalacnn, ppo and ppo_atari
  sample_factory  2.x: a checkpoint, or an experiment's folder; MLP, convnet and resnet_impala, LSTM and GRU
  onnx     any graph with the input obs and the output logits or q, and recurrent states as h and h_out (--graph)

A policy that plays far below what is expected, or no better than random actions, is not stored: then what was made of
it is mostly not what it was trained on, and the likely causes are named. Ends with 0 where the teacher is stored, 1
where it is not."""


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 where the teacher is stored, 1 where it plays too badly, 143 where the command was told to end.

    Raises:
        SystemExit: 2 where an option or the file is wrong, with the reason on the standard error.
    """
    parser = _parser()
    given = parser.read(arguments)
    stop = StopRequest()
    stop.install()
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        _check(given)
        graph = read_mapping("--graph", given.graph) if given.graph else {}
        out, policy = Path(given.out), FORMATS[given.format](Path(given.file), *([graph] if graph else []))
        env, filled = as_its_library(read_task(given.env), policy)
        if given.temperature is not None and not policy.is_q:
            raise ConfigError(f"--temperature is {given.temperature}, but {given.file} has no Q-values; leave it out")
        policy = _with_statistics(policy, given.statistics)
        spec, policy = checked(env, policy)
        env = resolve(env)
        network = policy.build()
        if isinstance(network, OnnxNetwork):
            network.check_observed(spec.obs_dtype)
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    say(f"{given.file}: {policy.origin['algorithm']} of {policy.origin['library']} {policy.origin['version']}")
    for option, value in filled.items():
        say(f"as its library has it: env.{option} {asdict(value) if option == 'view' else value}")
    expected = given.expect if given.expect is not None else policy.score
    seconds: dict[str, float] = {}

    def play(one: PolicyNetwork, what: str, episodes: int, greedy: bool) -> Score:
        """Plays a network, and shows how far it is."""
        with EvaluationDisplay(what, episodes) as display:
            score = evaluate(
                one, with_noops(env, NOOP_MAX), episodes, greedy, given.seed, interrupted=lambda: stop.requested,
                processes=evaluation_processes(episodes), progress=display.update,
            )  # fmt: skip
        seconds[what] = display.seconds
        return score

    try:
        if policy.is_q:
            policy = policy.cooled(given.temperature or temperature_for(network, env, given.seed, stop.check))
            network = policy.build()
            say(f"its logits are Q-values divided by the temperature {policy.origin['temperature']:.4g}")
        proof = prove(network, given.episodes, expected, play)
        _show(proof, seconds)
        if proof.shortfall:
            say(f"it plays too badly: {proof.shortfall}. Likely causes:")
            for cause in causes(policy, env):
                say(f"  - {cause}")
            if not given.force:
                say("nothing is stored; --force stores it all the same, and its certificate says so")
                return 1
        certificate = save_certificate(
            out, network, env, spec, {"sampled": proof.sampled, "greedy": proof.greedy}, _history(policy, proof)
        )
    except Stopped:
        say("told to end; nothing is stored")
        return stop.exit_code
    except OSError as error:
        say(f"error: {disk_full(error) or error}")
        return 1
    means = ", ".join(f"{name} {score.mean:.2f}" for name, score in certificate.evaluation.items())
    print(f"stored {out}: {means}")
    print(f"{PROGRAM} test --teacher {shlex.quote(str(out))}")
    return 0


def _parser() -> OptionParser:
    parser = OptionParser("import", ABOUT)
    parser.add_argument("format", choices=sorted(FORMATS), metavar="FORMAT", help=", ".join(sorted(FORMATS)))
    parser.add_argument("file", metavar="FILE", help="of the policy")
    parser.add_argument(
        "--env", metavar="ENV", help="the task it plays: an id, a mapping of env's options, or a YAML file with one"
    )
    parser.add_argument("--out", metavar="DIR", help="where the teacher goes; a new folder")
    parser.add_argument("--expect", type=float, metavar="R", help="mean return that it should have, in points")
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="episodes of each evaluation (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the evaluations, without unit (0)")
    parser.add_argument(
        "--statistics",
        metavar="F",
        help="mean and var of its observations, and maybe epsilon and clip, in an .npz or a JSON file",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of the softmax over Q-values, in points (default: its greedy action gets a mean probability of 0.9)",
    )
    parser.add_argument(
        "--graph",
        metavar="MAPPING",
        help="how an ONNX graph is read: output (logits or q), divisor (of uint8 observations where it reads float32, "
        "255), names (the graph's own names of obs, logits, q, value, h, h_out, ...)",
    )
    parser.add_argument("--force", action="store_true", help="store it however it plays")
    return parser


def _check(given: Namespace) -> None:
    for option in ("env", "out"):
        if not getattr(given, option):
            raise ConfigError(f"--{option} is missing; an import needs it")
    if (Path(given.out) / CERTIFICATE).exists():
        raise ConfigError(f"--out is {given.out!r}, where there is a teacher already; name another folder")
    if given.episodes < 2:
        raise ConfigError(f"--episodes is {given.episodes}; it must be 2 or more")
    if not is_seed(given.seed):
        raise ConfigError(f"--seed is {given.seed}; it must be {SEEDS}")
    if given.temperature is not None and not 0 < given.temperature < math.inf:
        raise ConfigError(f"--temperature is {given.temperature}; it must be above 0")
    if given.graph and given.format != "onnx":
        raise ConfigError(f"--graph is {given.graph!r}, but the format is {given.format}; it is for onnx")
    if given.expect is not None and not math.isfinite(given.expect):
        raise ConfigError(f"--expect is {given.expect}; it must be a number")


def _with_statistics(policy: ImportedPolicy, path: str | None) -> ImportedPolicy:
    """The policy that normalises what it reads, as it did in training."""
    if path is None:
        return policy
    if policy.network.trunk == ONNX:
        raise ConfigError(f"--statistics is {path!r}, but a graph is run as it is; leave it out")
    if policy.network.normalise:
        raise ConfigError(f"--statistics is {path!r}, but the file has statistics of its own; leave it out")
    found = read_statistics(Path(path), math.prod(policy.obs_shape))
    own = {
        "normaliser.mean": found["mean"],
        "normaliser.variance": found["var"] + found["epsilon"] - 1e-8,  # which the network adds
        "normaliser.count": [1.0],
    }
    tensors = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in own.items()}
    network = replace(policy.network, normalise=True, clip=float(found["clip"][0]))
    return replace(policy, network=network, weights={**policy.weights, **tensors})


def _history(policy: ImportedPolicy, proof: Proof) -> dict[str, Any]:
    """What the certificate says of where the policy came from."""
    imported = {**policy.origin, "expected": proof.expected, "random": proof.random.mean}
    if proof.shortfall:
        imported["forced"] = proof.shortfall
    return {"env_steps": policy.env_steps, "imported": imported}


def _show(proof: Proof, seconds: dict[str, float]) -> None:
    took = iter(seconds.values())
    scores = {
        "random": {"sampled": proof.random},
        "policy": {"greedy": proof.greedy, "sampled": proof.sampled},
    }
    times = {name: {kind: next(took) for kind in by} for name, by in scores.items()}
    sys.stdout.flush()
    Console().print(table(scores, times))
