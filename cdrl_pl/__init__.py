"""Collaborative deep reinforcement learning: agents that teach each other across different tasks.

What a script or a notebook needs is here by short names, and imported when it is first asked for::

    from cdrl_pl import Agent, Collaboration, Env, Trainer, Transfer
"""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"

_PUBLIC = {  # name -> where it is from
    "Agent": "cdrl_pl.training.graph:AgentConfig",
    "Alarm": "cdrl_pl.transfer.weighting:AlarmConfig",
    "Alignment": "cdrl_pl.transfer.alignment:AlignmentConfig",
    "CertificatedAgent": "cdrl_pl.agents.certificated:CertificatedAgent",
    "Collaboration": "cdrl_pl.training.collaboration:Collaboration",
    "ConfigError": "cdrl_pl.checks:ConfigError",
    "Env": "cdrl_pl.envs:EnvConfig",
    "Learner": "cdrl_pl.agents.student:LearnerConfig",
    "Network": "cdrl_pl.networks:NetworkConfig",
    "Pool": "cdrl_pl.rollouts.config:PoolConfig",
    "RolloutDataModule": "cdrl_pl.training.datamodule:RolloutDataModule",
    "Score": "cdrl_pl.evaluation.score:Score",
    "TeacherWeights": "cdrl_pl.transfer.weighting:TeacherWeights",
    "Trainer": "cdrl_pl.cli.script:Trainer",
    "Transfer": "cdrl_pl.transfer.transfer:TransferConfig",
    "Weight": "cdrl_pl.transfer.weighting:WeightConfig",
    "evaluate": "cdrl_pl.evaluation.evaluate:evaluate",
    "load_certificate": "cdrl_pl.agents.certificate:load_certificate",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """What is asked for, imported now: ``import cdrl_pl`` alone imports neither torch nor Lightning."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _PUBLIC[name].partition(":")
    found = globals()[name] = getattr(import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
