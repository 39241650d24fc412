"""A certificated teacher: a folder with ``certificate.json`` and ``weights.safetensors``, or ``policy.onnx``.

Nothing in either file is executed, and nothing that it names is imported but from modules that the user trusts. The
certificate carries the SHA-256 of the weights file, or of the graph.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cdrl_pl.class_paths import is_class_path, is_within
from cdrl_pl.envs import EnvConfig, EnvSpec, renamed, resolve
from cdrl_pl.evaluation.score import Score
from cdrl_pl.networks import ONNX, NetworkConfig, PolicyNetwork
from cdrl_pl.onnx.network import OnnxNetwork, located, without_place
from cdrl_pl.storage.atomic import write_json, write_whole
from cdrl_pl.storage.fingerprint import versions
from cdrl_pl.storage.stored import CERTIFICATE
from cdrl_pl.storage.verified import CertificateError, check_tensors, read, read_verified, record, sha256

WEIGHTS, GRAPH = "weights.safetensors", "policy.onnx"
EXPECTED = "a teacher is a folder with it"
FORMAT = 1


@dataclass(frozen=True)
class Certificate:
    """What is known of a teacher.

    Attributes:
        env: environment and preprocessing, resolved.
        spec: shapes of the observations and meanings of the actions.
        network: structure of the policy network.
        evaluation: "sampled" and "greedy" scores of the frozen policy, each with its protocol.
        training: decisions (env_steps), seed, threshold and mean return, in points, and the number of evaluations that
            certificated it; the factor of its rewards, in which its values are.
        versions: of what trained it.
        sha256: checksum of the weights file, or of the graph, in hexadecimal digits.
        format: version of the certificate's own layout, without unit.
    """

    env: EnvConfig
    spec: EnvSpec
    network: NetworkConfig
    evaluation: dict[str, Score]
    training: dict[str, Any]
    versions: dict[str, str]
    sha256: str
    format: int = FORMAT


def save_certificate(
    folder: str | Path,
    network: PolicyNetwork,
    env: EnvConfig,
    spec: EnvSpec,
    evaluation: dict[str, Score],
    training: dict[str, Any],
) -> Certificate:
    """Writes a teacher, each file whole or not at all, and returns its certificate.

    Args:
        folder: of the teacher; it is made.
        network: the frozen policy.
        env: the task it was trained on.
        spec: of that task.
        evaluation: "sampled" and "greedy" scores of the policy.
        training: what certificated it, in plain JSON.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name, content, structure = WEIGHTS, b"", network.config
    if isinstance(network, OnnxNetwork):
        name, content, structure = GRAPH, network.graph.content, without_place(structure)
    else:
        content = save_tensors({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()})
    env = resolve(env)
    module, _, bare = env.id.rpartition(":")
    imported = {"module": module, "wrappers": list(env.wrappers)}
    env = replace(env, id=bare, wrappers=())  # a certificate names nothing to import: that is said for people alone
    training = {**training, **{what: name for what, name in imported.items() if name}}
    certificate = Certificate(env, spec, structure, evaluation, training, versions(), sha256(content))
    write_whole(folder / name, content)
    write_json(folder / CERTIFICATE, asdict(certificate))
    own = named_modules(certificate)
    stored, _ = load_certificate(folder, tuple(own))  # what was written is read back before it is called stored
    return stored


def named_modules(certificate: Certificate) -> dict[str, str]:
    """The modules that a certificate names, and what each is for: of its trunk, of its environment, of its wrappers."""
    named, training = {}, certificate.training
    if is_class_path(trunk := certificate.network.trunk):
        named[trunk.rpartition(".")[0]] = "network.trunk"
    if isinstance(module := training.get("module"), str):
        named.setdefault(module, "env.id")
    for wrapper in wrappers if isinstance(wrappers := training.get("wrappers"), list) else []:
        path = next(iter(wrapper), "") if isinstance(wrapper, dict) else wrapper
        named.setdefault(str(path).rpartition(".")[0], "env.wrappers")
    return named


def load_certificate(folder: str | Path, trust: Sequence[str] = ()) -> tuple[Certificate, dict[str, Tensor]]:
    """The certificate and the weights of a teacher, verified.

    Args:
        folder: of the teacher.
        trust: packages from which what the certificate names may be imported.

    Raises:
        CertificateError: a file is missing or malformed, the checksum does not match, or the weights are not of the
            network that the certificate names; its trunk is a class that is not in ``trust``.
        OnnxError: it is a graph that is refused.
    """
    certificate = read_certificate(folder)
    trunk, folder = certificate.network.trunk, Path(folder)
    if is_class_path(trunk) and not is_within(module := trunk.rpartition(".")[0], trust):
        raise CertificateError(
            f"{folder / CERTIFICATE}: network.trunk is {trunk!r}, which is not imported unasked: name its module as "
            f"the agent's trust (--trust {module} beside --teacher)"
        )
    if trunk == ONNX:
        return _load_graph(folder, certificate)
    weights = read_verified(folder / WEIGHTS, certificate.sha256, EXPECTED)
    _check_shapes(folder / WEIGHTS, certificate)
    return certificate, load_tensors(weights)


def _load_graph(folder: Path, certificate: Certificate) -> tuple[Certificate, dict[str, Tensor]]:
    """The certificate, whose network is then the graph beside it, looked at."""
    spec, network = certificate.spec, certificate.network
    network = located(folder / GRAPH, network.trunk_options, certificate.sha256)
    graph = OnnxNetwork(network, spec.obs_shape, spec.num_actions)
    graph.check_observed(spec.obs_dtype)
    return replace(certificate, network=network), dict(graph.state_dict())


def read_certificate(folder: str | Path) -> Certificate:
    """The certificate alone, checked in its form; nothing that it names is imported.

    Args:
        folder: of the teacher.

    Raises:
        CertificateError: the file is missing or malformed.
    """
    folder = Path(folder)
    text = read(folder / CERTIFICATE, EXPECTED)
    try:
        content = json.loads(text)
        if content.get("format") != FORMAT:
            raise CertificateError(
                f"{folder / CERTIFICATE}: format {content.get('format')!r}; only {FORMAT} can be read"
            )
        certificate = Certificate(
            env=record(EnvConfig, renamed(content["env"])),
            spec=record(EnvSpec, content["spec"]),
            network=record(NetworkConfig, content["network"]),
            evaluation={k: record(Score, v) for k, v in content["evaluation"].items()},
            training=dict(content["training"]),
            versions=dict(content["versions"]),
            sha256=str(content["sha256"]),
        )
        if unknown := set(content) - {f.name for f in fields(Certificate)}:
            raise CertificateError(f"{folder / CERTIFICATE} has unknown fields: {', '.join(sorted(unknown))}")
        if certificate.env.wrappers:
            raise CertificateError(f"{folder / CERTIFICATE}: env.wrappers is {certificate.env.wrappers!r}; refused")
        if ":" in certificate.env.id:
            raise CertificateError(f"{folder / CERTIFICATE}: env.id {certificate.env.id!r} names a module; refused")
    except CertificateError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CertificateError(
            f"{folder / CERTIFICATE} is not a certificate: {type(error).__name__}: {error}"
        ) from None
    return certificate


def _check_shapes(path: Path, certificate: Certificate) -> None:
    """Compares names, shapes and types before anything of their size is allocated."""
    spec, network, where = certificate.spec, certificate.network, path.parent / CERTIFICATE
    counts = spec.action_counts
    if counts and (min(counts) < 1 or sum(counts) != spec.num_actions):
        raise CertificateError(f"{where}: {spec.num_actions} actions in choices of {str(counts)[:200]}: refused")
    hidden = network.hidden if isinstance(network.hidden, tuple) else (network.hidden,)
    layers = [*hidden, *network.after, *(size for layer in network.convolutions for size in layer)]
    sizes = (*spec.obs_shape, network.channels, network.lstm, network.gru, spec.num_actions, *layers)
    deep = max(network.depth, len(layers)) > 100
    if not spec.obs_shape or min(*spec.obs_shape, spec.num_actions) < 1 or max(sizes) > 2**14 or deep:
        raise CertificateError(f"{where}: sizes {str(sizes)[:200]}, depth {network.depth}: refused")
    try:
        with torch.device("meta"):
            expected = PolicyNetwork(network, spec.obs_shape, spec.num_actions).state_dict()
    except (ValueError, RuntimeError) as error:
        raise CertificateError(f"{where}: {error}") from None
    check_tensors(path, expected, "the network that the certificate names")
