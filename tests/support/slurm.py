"""A Slurm of one node for tests: munged, slurmctld and slurmd, with everything they write in one temporary folder."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "scontrol", "scancel", "squeue")
WITH_SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
STARTING = 30.0  # seconds
CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MinJobAge=600
KillWait=5
JobRequeue=1
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Cluster:
    """A Slurm that is up.

    Attributes:
        folder: with its configuration and logs.
        node: the name of its one node.
        daemons: its processes, by name.
    """

    folder: Path
    node: str
    daemons: dict[str, subprocess.Popen[bytes]]


def missing() -> str:
    """What of Slurm is not installed; empty: nothing."""
    return ", ".join(name for name in (*DAEMONS, *CLIENTS) if shutil.which(name, path=WITH_SBIN) is None)


@pytest.fixture(scope="session")
def running_slurm() -> Iterator[Cluster]:
    """The cluster, for all tests of a session; they are skipped where Slurm is not installed."""
    if names := missing():
        pytest.skip(f"needs Slurm (Debian's slurm-wlm and munge); not installed: {names}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)))
        yield start(folder, stack)


@pytest.fixture
def cluster(running_slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, as this process's Slurm."""
    monkeypatch.setenv("SLURM_CONF", str(running_slurm.folder / "slurm.conf"))
    return running_slurm


def start(folder: Path, stack: ExitStack) -> Cluster:
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(host=host, user=getpass.getuser(), ports=free_ports(2), folder=folder, cpus=os.cpu_count())
    )
    munge = ["--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.sock", "--num-threads=1"]
    munge += [f"--{name}={folder}/munge.{name}" for name in ("pid-file", "log-file", "seed-file")]
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    cluster = Cluster(folder, host, {})
    for name, words in (
        ("munged", munge),
        ("slurmctld", ["-D", "-i", "-f", str(conf)]),
        ("slurmd", ["-D", "-f", str(conf), "-N", host]),
    ):
        with (folder / f"{name}.out").open("wb") as out:
            program = shutil.which(name, path=WITH_SBIN)
            assert program
            process = subprocess.Popen([program, *words], stdout=out, stderr=out, env=environment)
        cluster.daemons[name] = process
        stack.callback(end, process)
        if name == "munged":
            until = time.monotonic() + STARTING
            while not (folder / "munge.sock").exists() and time.monotonic() < until:
                time.sleep(0.05)
    until = time.monotonic() + STARTING
    while True:
        answer = subprocess.run(
            ["scontrol", "-o", "show", "node", host], capture_output=True, text=True, env=environment, timeout=30
        )
        if "State=IDLE" in answer.stdout:
            return cluster
        if time.monotonic() > until:
            logs = [path.read_text(errors="replace")[-1000:] for path in sorted(folder.glob("*.log"))]
            pytest.fail(f"Slurm did not start: {answer.stdout}{answer.stderr}{logs}")
        time.sleep(0.2)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
