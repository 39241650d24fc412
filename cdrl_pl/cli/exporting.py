"""The command line of ``python -m cdrl_pl export TEACHER --out FILE.onnx``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.options import OptionParser
from cdrl_pl.onnx.export import TOLERANCE, write_onnx
from cdrl_pl.onnx.extra import EXTRA
from cdrl_pl.shipped import located

ABOUT = f"""\
Writes a certificated teacher as an ONNX graph, for programs that have no PyTorch.

Inputs: obs [batch, ...], as the teacher's task gives it (uint8 or float32; scaling and normalisation are in the
graph), and of a teacher with memory h and c [batch, width], zeros where an episode begins. Outputs: logits
[batch, actions], value [batch], and h_out and c_out, the next step's h and c. The metadata name the task, its actions
and the version that wrote it.

Before it is written, the graph is run and compared with the network on 1,000 observations: {TOLERANCE:g} of the
greatest number, or the network's own rounding where that is more. Needs {EXTRA}."""


def main(arguments: Sequence[str]) -> int:
    """Writes the graph and says what goes in and out; 0.

    Raises:
        SystemExit: 2 where an option or the teacher is wrong, or a package is missing.
    """
    parser = OptionParser("export", ABOUT)
    parser.add_argument("teacher", metavar="TEACHER", help="folder of a certificated teacher, such as teachers/pong")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="the graph's file, FILE.onnx; it must not be there"
    )
    parser.add_argument(
        "--trust", default="", metavar="A,B", help="packages from which the certificate's own trunk may be imported"
    )
    given = parser.read(arguments)
    path = Path(given.out)
    if path.suffix != ".onnx":
        parser.error(f"--out is {given.out!r}; it must end in .onnx")
    try:
        trust = [name.strip() for name in given.trust.split(",") if name.strip()]
        agent = CertificatedAgent(located(given.teacher), trust=trust)
        origin = {"cdrl_pl.weights_sha256": agent.certificate.sha256}
        written = write_onnx(path, agent.network, agent.env, agent.spec, origin)
    except (ConfigError, OSError) as error:
        parser.error(str(error))
    print(f"{path}: {written.size:,} bytes; the network's own within {written.difference:.1e}")
    for way, ports in (("in", written.inputs), ("out", written.outputs)):
        for port in ports:
            print(f"{way:>4}  {port}")
    return 0
