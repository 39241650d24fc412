from cdrl_pl.agents.certificate import load_certificate as load_certificate
from cdrl_pl.agents.certificated import CertificatedAgent as CertificatedAgent
from cdrl_pl.agents.student import LearnerConfig as Learner
from cdrl_pl.checks import ConfigError as ConfigError
from cdrl_pl.cli.script import Trainer as Trainer
from cdrl_pl.envs import EnvConfig as Env
from cdrl_pl.evaluation.evaluate import evaluate as evaluate
from cdrl_pl.evaluation.score import Score as Score
from cdrl_pl.networks import NetworkConfig as Network
from cdrl_pl.rollouts.config import PoolConfig as Pool
from cdrl_pl.training.collaboration import Collaboration as Collaboration
from cdrl_pl.training.datamodule import RolloutDataModule as RolloutDataModule
from cdrl_pl.training.graph import AgentConfig as Agent
from cdrl_pl.transfer.alignment import AlignmentConfig as Alignment
from cdrl_pl.transfer.transfer import TransferConfig as Transfer
from cdrl_pl.transfer.weighting import AlarmConfig as Alarm
from cdrl_pl.transfer.weighting import TeacherWeights as TeacherWeights
from cdrl_pl.transfer.weighting import WeightConfig as Weight

__version__: str
__all__ = [
    "Agent",
    "Alarm",
    "Alignment",
    "CertificatedAgent",
    "Collaboration",
    "ConfigError",
    "Env",
    "Learner",
    "Network",
    "Pool",
    "RolloutDataModule",
    "Score",
    "TeacherWeights",
    "Trainer",
    "Transfer",
    "Weight",
    "__version__",
    "evaluate",
    "load_certificate",
]
