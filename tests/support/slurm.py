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
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
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
    cluster = Cluster(folder, host, {})
    stack.callback(lambda: [end(process) for process in reversed(cluster.daemons.values())])
    cluster.daemons["munged"] = daemon("munged", munge, folder)
    until = time.monotonic() + STARTING
    while not (folder / "munge.sock").exists() and time.monotonic() < until:
        time.sleep(0.05)
    cluster.daemons["slurmctld"] = daemon("slurmctld", ["-D", "-i", "-f", str(conf)], folder)
    bring_up_node(cluster)
    return cluster


def daemon(name: str, words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    program = shutil.which(name, path=WITH_SBIN)
    assert program
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with (folder / f"{name}.out").open("ab") as out:
        return subprocess.Popen([program, *words], stdout=out, stderr=out, env=environment)


def bring_up_node(cluster: Cluster) -> None:
    """Starts slurmd, and waits until jobs can be placed on its node."""
    conf = cluster.folder / "slurm.conf"
    cluster.daemons["slurmd"] = daemon("slurmd", ["-D", "-f", str(conf), "-N", cluster.node], cluster.folder)
    until = time.monotonic() + STARTING
    while "State=IDLE" not in (said := control(cluster, "-o", "show", "node", cluster.node)):
        if "DOWN" in said:
            control(cluster, "update", f"NodeName={cluster.node}", "State=RESUME")
        if time.monotonic() > until:
            logs = [path.read_text(errors="replace")[-1000:] for path in sorted(cluster.folder.glob("*.log"))]
            pytest.fail(f"Slurm's node did not come up: {said}{logs}")
        time.sleep(0.2)


def lose_node(cluster: Cluster) -> None:
    """Kills slurmd, its jobs and what watches over them, and has the controller take note at once, not in minutes."""
    cluster.daemons["slurmd"].kill()
    cluster.daemons["slurmd"].wait()
    conf, killed = str(cluster.folder / "slurm.conf"), 0
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            job = process.children(recursive=True) if process.info["name"] == "slurmstepd" else []
            if any(one.environ().get("SLURM_CONF") == conf for one in job):
                for one in [process, *job]:
                    one.kill()
                    killed += 1
    assert killed > 1, "there was no job to lose"
    control(cluster, "update", f"NodeName={cluster.node}", "State=DOWN", "Reason=lost")


def control(cluster: Cluster, *words: str) -> str:
    """What scontrol says."""
    environment = {**os.environ, "SLURM_CONF": str(cluster.folder / "slurm.conf")}
    answer = subprocess.run(["scontrol", *words], capture_output=True, text=True, env=environment, timeout=30)
    return answer.stdout + answer.stderr


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
