"""TensorBoard, as it reads a run's events: what comes first, what has names, and what is there beside curves."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from graphs import FixedData, agent, fit, graph, played, random_batch, transfer
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from wide_cartpole import CARTPOLE, WIDE

from callbacks import ActionDistributions, CertificatedTeacher
from cdrl_pl.metric_names import LEARNING, METRICS, card
from cdrl_pl.training.board import Board, flattened


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    """Of a run of 120 decisions in which alignment begins at 30, distillation at 60, and both end at 90."""
    folder = tmp_path_factory.mktemp("run")
    module = graph(transfer(T1=30, T2=60, stop=90))
    fit(module, FixedData(random_batch(module)), folder, ActionDistributions(every=40), logger=Board(folder, name=""))
    read = EventAccumulator(str(folder / "version_0"), size_guidance={"tensors": 0, "images": 0, "scalars": 0})
    return read.Reload()


def test_returns_come_first_and_what_cares_only_the_machine_last(events: EventAccumulator) -> None:
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in sorted(events.Tags()["scalars"])))
    assert groups == ["1 returns", "2 transfers", "3 actions", "4 learning", "5 speed"]


def test_every_metric_is_in_a_group() -> None:
    for metric in METRICS:
        column = metric(*"abc"[: metric.pattern.count("{")]) + "/0" * metric.vector
        assert card(column, {}).partition("/")[2] == column and card(column, {})[0] in "12345"
    assert card("policy_loss/a", {}).startswith(f"{LEARNING}/") and card("my/own", {}) == "my/own"


def test_actions_have_their_names() -> None:
    names = {"alpha": ("LEFT", "RIGHT", "NOOP"), "a-b/teacher": ("NOOP", "NOOP")}
    for column, wanted in {
        "actions/alpha/1": "3 actions/actions/alpha/RIGHT",
        "actions/a-b/teacher/1": "3 actions/actions/a-b/teacher/NOOP 1",  # there twice
        "actions/alpha/7": "3 actions/actions/alpha/7",
        "actions/other/0": "3 actions/actions/other/0",
    }.items():
        assert card(column, names) == wanted


def test_a_run_names_the_actions_of_every_policy(tmp_path: Path) -> None:
    module = graph(transfer(), T_max=10)
    for one in module.agents.values():
        one.spec = replace(one.spec, action_meanings=tuple(f"play {i}" for i in range(one.spec.num_actions)))
    fit(module, FixedData(random_batch(module)), tmp_path, logger=Board(tmp_path, name=""))
    tags = EventAccumulator(str(tmp_path / "version_0")).Reload().Tags()["scalars"]
    for source, count in {"alpha": 5, "beta": 2, "alpha-beta/teacher": 5, "alpha-beta/aligned": 2}.items():
        shown = {tag.rpartition("/")[2] for tag in tags if tag.rpartition("/")[0] == f"3 actions/actions/{source}"}
        assert shown == {f"play {i}" for i in range(count)}


def test_values_are_those_of_the_log(tmp_path: Path) -> None:
    module = graph(transfer())
    fit(module, FixedData(random_batch(module)), tmp_path, logger=[Board(tmp_path, "a"), CSVLogger(tmp_path, "b")])
    (path,) = tmp_path.glob("b/version_0/metrics.csv")
    head, *_, last = path.read_text().splitlines()
    read = EventAccumulator(str(tmp_path / "a" / "version_0")).Reload()
    assert len(head.split(",")) > 15
    for column, value in zip(head.split(","), last.split(","), strict=True):
        if column != "step" and value:
            shown = read.Scalars(card(column, module.action_names()))[-1]
            assert shown.step == 120 and shown.value == pytest.approx(float(value), rel=1e-5)


def test_phases_and_elapsed_time_are_curves(events: EventAccumulator) -> None:
    phases = [(e.step, e.value) for e in events.Scalars("2 transfers/phase/alpha-beta")]
    wanted = [(t, 0 if t <= 30 else 1 if t <= 60 else 2 if t <= 90 else 3) for t in range(10, 121, 10)]
    assert phases == wanted
    elapsed = [e.value for e in events.Scalars("5 speed/elapsed_seconds")]
    assert elapsed == sorted(elapsed) and elapsed[0] > 0
    np.testing.assert_allclose(elapsed, np.cumsum([e.value for e in events.Scalars("5 speed/seconds")]), rtol=1e-4)


def texts(read: EventAccumulator) -> dict[str, list[tuple[int, str]]]:
    found = {}
    for tag in read.Tags()["tensors"]:
        if tag.endswith("text_summary"):
            said = [(e.step, e.tensor_proto.string_val[0].decode()) for e in read.Tensors(tag)]
            found[tag.removesuffix("/text_summary")] = said
    return found


def test_what_was_switched_is_said_at_its_time(events: EventAccumulator) -> None:
    said = texts(events)
    assert said["events/alpha-beta aligning"] == [
        (30, "T1: aligning of alpha-beta is switched on at T = 30"),
        (90, "stop: aligning of alpha-beta is switched off at T = 90"),
    ]
    assert [(t, text.partition(":")[0]) for t, text in said["events/alpha-beta distilling"]] == [
        (60, "T2"),
        (90, "stop"),
    ]


def test_a_certificate_is_said(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent(CARTPOLE)})
    certificate = CertificatedTeacher("beta", threshold=0.0, window=1, episodes=2)
    fit(module, played(), tmp_path, certificate, logger=Board(tmp_path, name=""))
    ((at, text),) = texts(EventAccumulator(str(tmp_path / "version_0")).Reload())["events/certificate beta"]
    assert at > 0 and text.startswith("beta is certificated: sampled ") and "teacher/beta" in text


def test_action_distributions_are_one_figure(events: EventAccumulator) -> None:
    (tag,) = events.Tags()["images"]
    assert tag == "action distributions" and [e.step for e in events.Images(tag)] == [40, 80, 120]
    first, later, _ = (Image.open(io.BytesIO(e.encoded_image_string)) for e in events.Images(tag))
    assert first.width == later.width == 420 and later.height > 200


def test_hyper_parameters_are_there_with_their_results(events: EventAccumulator, tmp_path: Path) -> None:
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    read = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert read["T_max"].number_value == 120 and read["transfers.alpha-beta.T2"].number_value == 60
    assert read["agents.beta.network.trunk"].string_value == "mlp" and read["agents.beta.learner.lr"].number_value > 0
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    results = {info.name.tag for info in experiment.metric_infos}
    assert results == {"1 returns/return/alpha", "1 returns/return/beta"}
    for result in results & set(events.Tags()["scalars"]):
        assert all(e.step > 0 for e in events.Scalars(result))  # no made-up value at the start


def test_the_file_of_hyper_parameters_has_them(tmp_path: Path) -> None:
    module = graph(transfer(), T_max=10)
    fit(module, FixedData(random_batch(module)), tmp_path, logger=Board(tmp_path, name=""))
    assert yaml.safe_load((tmp_path / "version_0" / "hparams.yaml").read_text())["agents.alpha.env.id"] == WIDE


@pytest.mark.parametrize("logger", [TensorBoardLogger, CSVLogger])
def test_any_other_logger_will_do(tmp_path: Path, logger: Any) -> None:
    module = graph(transfer(T1=10, T2=10), T_max=20)
    fit(module, FixedData(random_batch(module)), tmp_path, ActionDistributions(), logger=logger(tmp_path))
    assert module.env_steps["beta"] == 20


def test_settings_are_flat_and_what_is_unset_is_left_out() -> None:
    nested = {"a": {"b": 1, "c": None, "d": {"e": "x"}}, "f": [1, 2], "g": True}
    assert dict(flattened(nested)) == {"a.b": 1, "a.d.e": "x", "f": "[1, 2]", "g": True}
