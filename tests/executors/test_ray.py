"""Experiments on a local Ray cluster of two nodes: what is started, told to end, and lost with its node."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import experiments
import pytest
from command_line import REPOSITORY
from experiments import faulty, run_log

from cdrl_pl.executors.executor import Job
from cdrl_pl.executors.ray import RayExecutor, RayOptions
from cdrl_pl.experiment.folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(200)]
start, refused = experiments.start, experiments.refused
ONE = Path("out/one/seed-1")


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """A head and one node, each with one processor for runs; the second has the resource ``far``."""
    ray = pytest.importorskip("ray", reason='needs ray: pip install "cdrl-pl[ray]"')
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", paths)
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv(
            "RAY_worker_niceness", "0"
        )  # by default it starts them at 15, so that tests beside take their cores
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"near": 1}})
        cluster.far = cluster.add_node(num_cpus=1, resources={"far": 1})
        patched.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_experiment_is_run_by_ray_and_what_a_job_says_when_it_fails_is_its_reason(
    start: experiments.Start, two_nodes: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both at once, since Ray takes seconds for each process that holds a run."""
    assert start("--jobs=2", executor="ray", seeds=[1], arms={"one": {}, "two": faulty("refuse", "two/seed-1")}) == 1
    assert sorted(run_log()) == ["fit one/seed-1", "fit two/seed-1", "test one/seed-1"]
    assert "failed: two/seed-1: training: exit code 2: error: this cannot be" in capfd.readouterr().err


def test_a_job_is_told_to_end_and_one_that_does_not_is_killed(tmp_path: Path, two_nodes: Any) -> None:
    text = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, (lambda *_: sys.exit(143)) if sys.argv[1] == "good" else signal.SIG_IGN)
        print("there", flush=True)
        time.sleep(600)
    """
    executor = RayExecutor(RayOptions())
    for kind, code in (("good", 143), ("bad", -9)):
        (folder := tmp_path / kind).mkdir()
        words = (sys.executable, "-c", textwrap.dedent(text), kind)
        process = executor.start(Job(kind, words, folder, log := folder / "log.txt"))
        until(lambda log=log, process=process: process.ask() is None and log.exists() and log.read_text())
        process.end()
        process.wait(2.0)
        assert process.ask() == code and not process.lost


def test_a_job_that_waits_for_resources_is_cancelled(tmp_path: Path, two_nodes: Any) -> None:
    process = RayExecutor(RayOptions(cpus=64)).start(Job("one", ("true",), tmp_path, tmp_path / "log.txt"))
    time.sleep(1)
    assert process.ask() is None
    process.end()
    assert process.ask() == -15 and not (tmp_path / "log.txt").exists()


def test_a_run_whose_node_is_killed_goes_on_elsewhere_from_its_newest_checkpoint(
    start: experiments.Start, two_nodes: Any, tmp_path: Path
) -> None:
    """The head's only processor is taken until the far node, which has the run, is gone."""
    import threading

    os.mkfifo("fifo")
    words = (sys.executable, "-c", "import time; time.sleep(600)")
    blocker = RayExecutor(RayOptions(resources={"near": 1})).start(Job("b", words, tmp_path, tmp_path / "log.txt"))
    until(lambda: blocker.ask() is None and blocker._up)

    def kill_its_node() -> None:
        with open("fifo") as fifo:
            fifo.readline()
        blocker.end()
        blocker.wait(10)
        two_nodes.remove_node(two_nodes.far, allow_graceful=False)

    thread = threading.Thread(target=kill_its_node, daemon=True)
    thread.start()
    assert start(executor="ray", seeds=[1], arms={"one": faulty("wait")}) == 0
    thread.join(60)
    log = run_log()
    assert log[0] == "fit one/seed-1" and log[1].startswith("fit one/seed-1 from ") and log[-1] == "test one/seed-1"
    assert len(RunFolder(ONE).attempts) == 2


# Without Ray


def test_without_ray_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused(executor="ray") == "executor is 'ray'; it needs ray: pip install \"cdrl-pl[ray]\""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cpu": 1}, "there is no option ray.cpu; did you mean cpus?"),
        ({"cpus": -1}, "ray.cpus is -1; it must be a number from 0"),
        ({"resources": {"far": "1"}}, "ray.resources is {'far': '1'}; it must be names with numbers from 0"),
    ],
)
def test_a_wrong_option_is_named_before_anything_runs(
    options: dict[str, Any], says: str, refused: Callable[..., str]
) -> None:
    assert says in refused(ray=options)
