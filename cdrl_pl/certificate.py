"""A certificated teacher: a folder with ``weights.safetensors`` and ``certificate.json``.

Nothing in either file is executed or names anything to import. The certificate carries the SHA-256 of the weights file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cdrl_pl.envs import EnvConfig, EnvSpec, resolve
from cdrl_pl.evaluation import Score
from cdrl_pl.files import write_json, write_whole
from cdrl_pl.fingerprint import versions
from cdrl_pl.networks import NetworkConfig, PolicyNetwork

WEIGHTS, CERTIFICATE = "weights.safetensors", "certificate.json"
MAX_BYTES = 2**30
FORMAT = 1


class CertificateError(ValueError):
    """A folder that is not a teacher that can be trusted, with the file and the reason."""


@dataclass(frozen=True)
class Certificate:
    """What is known of a teacher.

    Attributes:
        env: environment and preprocessing, resolved. spec: shapes and action meanings. network: structure.
        evaluation: "sampled" and "greedy" scores of the frozen policy, each with its protocol.
        training: env_steps, seed, threshold and mean return that certificated it.
        versions: of what trained it. sha256: of the weights file.
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
    """Writes a teacher, each file whole or not at all, and returns its certificate."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()})
    env = resolve(env)
    env = replace(env, id=env.id.rpartition(":")[2])  # a certificate names nothing to import
    certificate = Certificate(
        env, spec, network.config, evaluation, training, versions(), hashlib.sha256(weights).hexdigest()
    )
    write_whole(folder / WEIGHTS, weights)
    write_json(folder / CERTIFICATE, asdict(certificate))
    return certificate


def load_certificate(folder: str | Path) -> tuple[Certificate, dict[str, Tensor]]:
    """The certificate and the weights of a teacher, verified.

    Raises:
        CertificateError: a file is missing or malformed, the checksum does not match, or the weights are not of the
            network that the certificate names.
    """
    folder = Path(folder)
    record = _read(folder / CERTIFICATE)
    try:
        content = json.loads(record)
        if content.get("format") != FORMAT:
            raise CertificateError(
                f"{folder / CERTIFICATE}: format {content.get('format')!r}; only {FORMAT} can be read"
            )
        certificate = Certificate(
            env=_record(EnvConfig, content["env"]),
            spec=_record(EnvSpec, content["spec"]),
            network=_record(NetworkConfig, content["network"]),
            evaluation={k: _record(Score, v) for k, v in content["evaluation"].items()},
            training=dict(content["training"]),
            versions=dict(content["versions"]),
            sha256=str(content["sha256"]),
        )
        if unknown := set(content) - {f.name for f in fields(Certificate)}:
            raise CertificateError(f"{folder / CERTIFICATE} has unknown fields: {', '.join(sorted(unknown))}")
        if ":" in certificate.env.id:
            raise CertificateError(f"{folder / CERTIFICATE}: env.id {certificate.env.id!r} names a module; refused")
    except CertificateError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CertificateError(
            f"{folder / CERTIFICATE} is not a certificate: {type(error).__name__}: {error}"
        ) from None
    weights = _read(folder / WEIGHTS)
    found = hashlib.sha256(weights).hexdigest()
    if found != certificate.sha256:
        raise CertificateError(
            f"{folder / WEIGHTS} has SHA-256 {found}, the certificate says {certificate.sha256}: changed or damaged"
        )
    _check_shapes(folder / WEIGHTS, certificate)
    return certificate, load_tensors(weights)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CertificateError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}; a teacher is a folder with it") from None


def _record(kind: type, content: Any) -> Any:
    if not isinstance(content, dict):
        raise TypeError(f"{kind.__name__} must be an object, not {type(content).__name__}")
    unknown = set(content) - {f.name for f in fields(kind)}
    if unknown:
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    for name, hint in get_type_hints(kind).items():
        if name in values and not _is(values[name], hint):
            raise TypeError(f"{kind.__name__}.{name} is {str(values[name])[:80]!r}, which is not {hint}")
    return kind(**values)


def _is(value: Any, hint: Any) -> bool:
    """Whether a JSON value (lists as tuples) is of the type that a record's field declares."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        kinds = [inner[0]] * len(value) if isinstance(value, tuple) and inner[-1] is Ellipsis else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return hint is Any or (isinstance(value, hint) and (hint is bool or not isinstance(value, bool)))


def _check_shapes(path: Path, certificate: Certificate) -> None:
    """Compares names, shapes and types before anything of their size is allocated."""
    spec, network = certificate.spec, certificate.network
    sizes = (*spec.obs_shape, network.channels, network.hidden, network.lstm, spec.num_actions)
    if not spec.obs_shape or min(*spec.obs_shape, spec.num_actions) < 1 or max(sizes) > 2**14 or network.depth > 100:
        raise CertificateError(f"{path.parent / CERTIFICATE}: sizes {str(sizes)[:200]}, depth {network.depth}: refused")
    try:
        with torch.device("meta"):
            expected = PolicyNetwork(network, spec.obs_shape, spec.num_actions).state_dict()
    except (ValueError, RuntimeError) as error:
        raise CertificateError(f"{path.parent / CERTIFICATE}: {error}") from None
    try:
        with safe_open(path, "pt") as file:
            found = {k: (tuple(file.get_slice(k).get_shape()), file.get_slice(k).get_dtype()) for k in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise CertificateError(f"{path} is not a safetensors file: {error}") from None
    wanted = {k: (tuple(v.shape), "F32") for k, v in expected.items()}
    if found != wanted:
        wrong = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
        raise CertificateError(
            f"{path} does not hold the network that the certificate names; different: {', '.join(wrong[:5])}"
        )
