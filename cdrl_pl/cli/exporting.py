"""The command line of ``python -m cdrl_pl export TEACHER|RUN --out FILE.onnx``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from cdrl_pl.agents.agent import Agent
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.options import OptionParser
from cdrl_pl.onnx.export import TOLERANCE, write_onnx
from cdrl_pl.onnx.extra import EXTRA
from cdrl_pl.shipped import located
from cdrl_pl.storage.checkpoints import saved
from cdrl_pl.storage.stored import CERTIFICATE
from cdrl_pl.training.stored_agent import stored_agent

ABOUT = f"""\
Writes an agent as an ONNX graph, for programs that have no PyTorch: a certificated teacher, or an agent of a run.

    python -m cdrl_pl export teachers/pong --out pong.onnx
    python -m cdrl_pl export runs/version_0 --agent pong --out pong.onnx

Of a run, the newest whole checkpoint is taken, or the one that is named; its config.yaml says what the network is.

Inputs: obs [batch, ...], as the agent's task gives it (uint8 or float32; scaling and normalisation are in the graph),
and of an agent with memory h and c [batch, width], zeros where an episode begins. Outputs: logits [batch, actions],
value [batch], and h_out and c_out, the next step's h and c. The metadata name the task, its actions and the version
that wrote it.

Before it is written, the graph is run and compared with the network on 1,000 observations: {TOLERANCE:g} of the
greatest number, or the network's own rounding where that is more. Needs {EXTRA}."""


def main(arguments: Sequence[str]) -> int:
    """Writes the graph and says what goes in and out; 0.

    Raises:
        SystemExit: 2 where an option or the agent is wrong, or a package is missing.
    """
    parser = OptionParser("export", ABOUT)
    parser.add_argument(
        "agent_path", metavar="TEACHER|RUN", help="folder of a certificated teacher or of a run, or a run's checkpoint"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="the graph's file, FILE.onnx; it must not be there"
    )
    parser.add_argument("--agent", metavar="NAME", help="which agent of a run (default: the only one that learns)")
    parser.add_argument(
        "--trust", default="", metavar="A,B", help="packages from which the certificate's own trunk may be imported"
    )
    given = parser.read(arguments)
    path = Path(given.out)
    if path.suffix != ".onnx":
        parser.error(f"--out is {given.out!r}; it must end in .onnx")
    try:
        agent, origin = _agent(given)
        written = write_onnx(path, agent.network, agent.env, agent.spec, origin)
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    print(f"{path}: {written.size:,} bytes; the network's own within {written.difference:.1e}")
    for way, ports in (("in", written.inputs), ("out", written.outputs)):
        for port in ports:
            print(f"{way:>4}  {port}")
    return 0


def _agent(given: Namespace) -> tuple[Agent, dict[str, str]]:
    """The agent, and what the graph's metadata say of where it is from."""
    path = Path(located(given.agent_path))
    if path.is_file() or (not (path / CERTIFICATE).exists() and any(saved([path]))):
        if given.trust:
            raise ConfigError(f"--trust is {given.trust!r}, but {path} is of a run, whose config has it; leave it out")
        found = stored_agent(path, given.agent)
        return found.agent, {
            "cdrl_pl.agent": found.name,
            "cdrl_pl.env_steps": str(found.env_steps),
            "cdrl_pl.checkpoint_sha256": found.sha256,
        }
    if given.agent:
        raise ConfigError(f"--agent is {given.agent!r}, but {path} is no run; leave it out")
    trust = [name.strip() for name in given.trust.split(",") if name.strip()]
    teacher = CertificatedAgent(path, trust=trust)
    return teacher, {"cdrl_pl.weights_sha256": teacher.certificate.sha256}
