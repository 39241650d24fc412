"""Several config files are one: merged by agent, transfer and callback, at every depth, as the command line merges."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import command_line
import pytest
import yaml
from command_line import CONFIGS, Run, call, callback, edge, pole, tiny, write
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdrl_pl.cli.merging import merge, merged, normal, plain
from cdrl_pl.cli.trainer import CALLBACKS as BY_THEMSELVES

run, build, refused = command_line.run, command_line.build, command_line.refused
Printed = Callable[..., dict[str, Any]]


def full() -> dict[str, Any]:
    """Two agents that teach each other, and a callback with a setting."""
    transfers = [edge(), edge(teacher="beta", student="alpha")]
    return tiny(callback("callbacks.EnvStepsCheckpoint", every=40), transfers=transfers, alpha=pole(), beta=pole())


@pytest.fixture
def printed(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Printed:
    """The whole config of a command line of these config files (trees, or texts), which runs nothing."""

    def go(*configs: dict[str, Any] | str, options: tuple[str, ...] = (), command: str = "fit") -> dict[str, Any]:
        words: list[str | Path] = []
        for index, config in enumerate(configs):
            path = tmp_path / f"{index}.yaml"
            path.write_text(config if isinstance(config, str) else json.dumps(config))
            words += ["--config", path]
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run(command, *words, *options, "--print_config")
        captured = capsys.readouterr()
        assert end.value.code == 0, captured.err
        config: dict[str, Any] = yaml.safe_load(captured.out)
        return config

    return go


# By agent, by transfer and by callback


@pytest.mark.parametrize(
    ("overlay", "option"),
    [
        ({"learner": {"lr": 0.001}}, "learner.lr=1e-3"),
        ({"env": {"max_episode_steps": 7}}, "env.max_episode_steps=7"),
        ({"network": {"hidden": 9}}, "network.hidden=9"),
        ({"teacher_weights": {"span": 3}}, "teacher_weights.span=3"),
    ],
)
def test_an_overlay_changes_one_option_of_one_agent(
    overlay: dict[str, Any], option: str, printed: Printed, build: Run
) -> None:
    found = printed(full(), {"model": {"agents": {"beta": overlay}}})
    assert found == printed(full(), options=(f"--model.agents.beta.{option}",)) != printed(full())
    assert found["model"]["agents"]["alpha"] == printed(full())["model"]["agents"]["alpha"]


def test_an_overlay_reaches_the_run(build: Run, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", full())
    (tmp_path / "over.yaml").write_text("model: {agents: {beta: {learner: {lr: 1e-3}}}}")
    built = build("fit", "--config", config, f"--config={tmp_path / 'over.yaml'}")
    assert [agent.learner.lr for agent in built.model.agents.values() if agent.learner] == [1e-4, 1e-3]


def test_an_overlay_can_add_an_agent(printed: Printed) -> None:
    assert list(printed(full(), {"model": {"agents": {"gamma": pole()}}})["model"]["agents"]) == [
        "alpha",
        "beta",
        "gamma",
    ]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"T2": 90}, "T2"),
        ({"alignment": {"hidden": 3}}, "alignment.hidden"),
        ({"alarm": {"span": 3}}, "alarm.span"),
        ({"weight": {"steps": 3}}, "weight.steps"),
    ],
)
def test_an_overlay_changes_one_option_of_one_transfer(change: dict[str, Any], where: str, printed: Printed) -> None:
    over = {"model": {"transfers": [{"teacher": "beta", "student": "alpha", **change}]}}
    before, after = printed(full())["model"]["transfers"], printed(full(), over)["model"]["transfers"]
    assert after[0] == before[0] and len(after) == len(before) == 2
    assert reduce(lambda tree, name: tree[name], where.split("."), after[1]) in (3, 90)
    different = {key for key in after[1] if after[1][key] != before[1][key]}
    assert different == {where.split(".")[0]}


def test_transfers_that_are_new_are_added_and_none_are_left_by_an_empty_list(printed: Printed) -> None:
    more = {"model": {"agents": {"gamma": pole()}, "transfers": [edge(teacher="gamma")]}}
    found = printed(full(), more)["model"]["transfers"]
    assert [(t["teacher"], t["student"]) for t in found] == [("alpha", "beta"), ("beta", "alpha"), ("gamma", "beta")]
    for nothing in ([], None):
        assert not printed(full(), {"model": {"transfers": nothing}})["model"]["transfers"]
        found = printed(full(), {"model": {"transfers": nothing}}, more)["model"]["transfers"]
        assert [(t["teacher"], t["student"]) for t in found] == [("gamma", "beta")]


def callbacks(config: dict[str, Any]) -> dict[str, Any]:
    return {c["class_path"]: c.get("init_args", {}) for c in config["trainer"]["callbacks"]}


def test_a_callback_of_the_same_class_takes_the_overlays_settings_over_its_own(printed: Printed) -> None:
    over = {"trainer": {"callbacks": [callback("callbacks.EnvStepsCheckpoint", keep=5), "callbacks.Progress"]}}
    found = callbacks(printed(full(), over))
    assert found["callbacks.EnvStepsCheckpoint"] == {"every": 40, "keep": 5}
    before = callbacks(printed(full())) | {"callbacks.EnvStepsCheckpoint": {"every": 40, "keep": 5}}
    before["callbacks.Progress"] = before.pop("cdrl_pl.callbacks.Progress")  # as the overlay names it
    assert found == before


def test_two_callbacks_of_one_class_stay_two(printed: Printed) -> None:
    two = [callback("pytorch_lightning.callbacks.EarlyStopping", monitor=m) for m in ("a", "b")]
    over = [callback("pytorch_lightning.callbacks.EarlyStopping", patience=7)]
    config = {**full(), "trainer": {"callbacks": two}}
    found = printed(config, {"trainer": {"callbacks": over}})["trainer"]["callbacks"][:2]
    assert [(c["init_args"]["monitor"], c["init_args"]["patience"]) for c in found] == [("a", 7), ("b", 3)]


@pytest.mark.parametrize("nothing", [[], None])
def test_no_callbacks_leave_those_that_every_training_has(nothing: Any, printed: Printed) -> None:
    found = callbacks(printed(full(), {"trainer": {"callbacks": nothing}}))
    assert list(found) == list(BY_THEMSELVES) and found["cdrl_pl.callbacks.EnvStepsCheckpoint"]["every"] != 40


@pytest.mark.parametrize("one", ["callbacks.Progress", {"class_path": "callbacks.Progress"}])
def test_one_callback_needs_no_list(one: Any, printed: Printed) -> None:
    config = {**full(), "trainer": {"callbacks": one}}
    assert next(iter(callbacks(printed(config)))) == "callbacks.Progress"
    option = "--trainer.callbacks=callbacks.Progress"
    assert next(iter(callbacks(printed(full(), options=(option,))))) == "callbacks.Progress"


def test_another_class_does_not_take_the_settings_of_the_one_before(printed: Printed) -> None:
    csv = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "a", "name": "b"}}
    board = {"class_path": "pytorch_lightning.loggers.TensorBoardLogger", "init_args": {"save_dir": "c"}}
    same = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "c"}}
    for over, name in ((board, "lightning_logs"), (same, "b")):
        found = printed(full(), {"trainer": {"logger": csv}}, {"trainer": {"logger": over}})["trainer"]["logger"]
        assert (found["init_args"]["save_dir"], found["init_args"]["name"]) == ("c", name)


# Where configs and options stand, and how they are spelled


@pytest.mark.parametrize("spelling", ["--config {}", "--config={}", "-c {}", "-c={}", "-c{}"])
def test_every_spelling_of_the_option_names_a_config(spelling: str, build: Run, tmp_path: Path) -> None:
    config, over = write(tmp_path / "tiny.yaml", full()), write(tmp_path / "over.yaml", {"model": {"T_max": 7}})
    words = [word for path in (config, over) for word in spelling.format(path).split()]
    assert build("fit", *words).model.T_max == 7


def test_options_hold_over_configs_wherever_they_stand(build: Run, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", full())
    option = "--model.agents.beta.learner.lr=0.5"
    for words in ((option, "--config", config), ("--config", config, option)):
        learner = build("fit", *words, "--T_max", "7").model.agents["beta"].learner
        assert learner is not None and learner.lr == 0.5


def test_a_config_may_name_its_options_with_dots(printed: Printed) -> None:
    dotted = "model.T_max: 7\nmodel.agents.beta.learner.lr: 1e-3\nmodel: {window: 5}\n"
    nested = {"model": {"T_max": 7, "window": 5, "agents": {"beta": {"learner": {"lr": 0.001}}}}}
    assert printed(full(), dotted) == printed(full(), nested)


def test_a_config_may_name_other_files_beside_it(build: Run, tmp_path: Path) -> None:
    config = full()
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "agents.yaml", config["model"]["agents"])
    (tmp_path / "parts" / "edges.yaml").write_text("[{teacher: alpha, student: beta}]")
    parts = {"agents": "agents.yaml", "transfers": "edges.yaml"}
    write(tmp_path / "parts" / "model.yaml", {**config["model"], **parts})
    path = write(tmp_path / "tiny.yaml", {**config, "model": "parts/model.yaml"})
    model = build("fit", "--config", path).model
    assert list(model.agents) == ["alpha", "beta"] and [t.name for t in model.transfers] == ["alpha-beta"]


def test_a_config_may_be_given_in_place(build: Run, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", full())
    assert build("fit", "--config", config, "--config", "{model: {T_max: 7}}").model.T_max == 7


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1e2", 100.0), ("1.", 1.0), (".5", 0.5), ("1_0.0", 10.0), ("0.30000000000000004", 0.1 + 0.2)],
)
def test_numbers_mean_what_they_mean_to_the_parser(text: str, value: float, printed: Printed) -> None:
    config = printed(full(), f"model: {{agents: {{beta: {{learner: {{lr: {text}}}}}}}}}")
    assert config["model"]["agents"]["beta"]["learner"]["lr"] == value


@pytest.mark.parametrize("text", ["1e-4", "1", "true", "2020-01-01", "ä", "a: b", "'", '"', "yes", "{a", "\n"])
def test_texts_stay_texts(text: str, printed: Printed) -> None:
    assert printed(full(), json.dumps({"trainer": {"default_root_dir": text}}))["trainer"]["default_root_dir"] == text


# What is printed is what runs


def test_the_printed_config_is_the_runs(printed: Printed, run: Run, tmp_path: Path) -> None:
    config = printed(full())
    assert list(callbacks(config)) == ["callbacks.EnvStepsCheckpoint", *(c for c in BY_THEMSELVES if "Env" not in c)]
    ended = run("fit", "--config", tmp_path / "0.yaml")
    saved = yaml.safe_load((Path(ended.trainer.log_dir or "") / "config.yaml").read_text())
    assert saved == config == printed(config)  # printed again, too


def test_what_switches_a_callback_off_leaves_it_out_of_the_printed_config(printed: Printed) -> None:
    off = {"trainer": {"callbacks": None, "enable_checkpointing": False}}
    assert list(callbacks(printed(full(), off, options=("--trainer.enable_progress_bar=false",)))) == [
        "cdrl_pl.callbacks.AlignmentSchedule",
        "cdrl_pl.callbacks.DistillationSchedule",
        "cdrl_pl.callbacks.ActionDistributions",
    ]
    assert list(callbacks(printed(full(), command="test"))) == ["callbacks.EnvStepsCheckpoint"]


def test_the_printed_config_names_the_seed(
    printed: Printed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "12")
    assert printed({**full(), "seed_everything": True})["seed_everything"] == 12
    assert printed({**full(), "seed_everything": 3})["seed_everything"] == 3


def test_a_printed_config_can_leave_defaults_out(
    run: Run, refused: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "tiny.yaml", full())
    with pytest.raises(SystemExit) as end:
        run("fit", "--config", config, "--print_config=skip_default,skip_unset")
    shown = yaml.safe_load(capsys.readouterr().out)
    assert end.value.code == 0 and set(shown["model"]) == {"agents", "transfers", "T_max", "log_every"}
    text = refused("--config", config, "--print_config=skip")
    assert text == "--print_config is 'skip'; it must be nothing, or some of skip_default, skip_unset"


def test_without_a_config_every_option_is_printed_with_its_default(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run("fit", "--print_config")
    assert end.value.code == 0 and yaml.safe_load(capsys.readouterr().out)["model"]["T_max"] == 20_000_000


def test_a_merge_leaves_nothing(tmp_path: Path) -> None:
    for name in ("cwd", "tmp"):
        (tmp_path / name).mkdir()
    paths = [CONFIGS / "paper/online_2.yaml", CONFIGS / "overlays/short.yaml"]
    words = [word for path in paths for word in ("--config", path)]
    answer = call("fit", *words, "--print_config", cwd=tmp_path / "cwd", TMPDIR=str(tmp_path / "tmp"))
    assert answer.returncode == 0 and yaml.safe_load(answer.stdout)["model"]["T_max"] == 30_000
    assert [path for name in ("cwd", "tmp") for path in (tmp_path / name).iterdir()] == []


# Merging as such

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.just("text"))
OPTIONS = st.dictionaries(st.sampled_from("abc"), SCALARS, max_size=3)
NESTED = st.one_of(SCALARS, OPTIONS, st.dictionaries(st.sampled_from("abc"), st.one_of(SCALARS, OPTIONS), max_size=2))
ENDS = st.sampled_from(["pong", "bowling"])
TRANSFERS = st.lists(
    st.builds(lambda a, b, more: {"teacher": a, "student": b, **more}, ENDS, ENDS, OPTIONS), max_size=3
)
CALLBACKS = st.lists(
    st.one_of(
        st.sampled_from(["callbacks.A", "callbacks.B"]),
        st.builds(lambda name, more: callback(name, **more), st.sampled_from(["callbacks.A", "own.B"]), OPTIONS),
    ),
    max_size=3,
)
TREES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries(
            {},
            optional={
                "agents": st.dictionaries(ENDS, NESTED, max_size=2),
                "transfers": st.one_of(st.none(), TRANSFERS),
                "T_max": SCALARS,
            },
        ),
        "trainer": st.fixed_dictionaries({}, optional={"callbacks": st.one_of(st.none(), CALLBACKS), "logger": NESTED}),
        "data": NESTED,
    },
)


@given(TREES, TREES, TREES)
def test_merging_is_associative(first: Any, second: Any, third: Any) -> None:
    a, b, c = map(normal, (first, second, third))
    assert plain(merge(merge(a, b), c)) == plain(merge(a, merge(b, c))) == merged([first, second, third])


@given(TREES)
def test_a_config_over_itself_or_over_nothing_is_the_same(tree: Any) -> None:
    assert merged([tree, tree]) == merged([tree]) == merged([{}, tree]) == merged([tree, {}]) == normal(tree)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model.agents.alpha.learner.lr": st.floats(1e-6, 1),
    "model.agents.beta.learner.lr": st.floats(1e-6, 1),
    "model.agents.beta.learner.lr_end": st.one_of(st.none(), st.floats(1e-6, 1)),
    "model.agents.beta.learner.batch_copies": st.one_of(st.none(), st.integers(1, 9)),
    "model.agents.beta.env.max_episode_steps": st.integers(1, 10**12),
    "model.agents.beta.network.hidden": st.integers(1, 9),
    "model.agents.beta.teacher_weights.by": st.sampled_from(["fixed", "value"]),
    "model.T_max": st.integers(1, 10**12),
    "model.stop": st.one_of(st.none(), st.just("never"), st.integers(81, 10**12)),
    "model.weight": st.one_of(st.none(), st.floats(0, 9)),
    "model.preset_overrides.distill_step": st.one_of(st.none(), st.sampled_from(["joint", "separate"])),
    "data.pool.copies": st.integers(1, 9),
    "data.seed": st.one_of(st.none(), st.integers(0, 2**40)),
    "trainer.precision": st.sampled_from(["32-true", "bf16-mixed"]),
    "trainer.limit_train_batches": st.one_of(st.integers(2, 9), st.floats(0, 1)),
    "trainer.default_root_dir": st.sampled_from(["runs", "1e-4", "a b"]),
    "seed_everything": st.integers(0, 2**32 - 1),
}
CHANGES = st.lists(st.fixed_dictionaries({}, optional=VALUES), max_size=4)


@pytest.mark.slow
@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],  # to shrink an example takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=CHANGES)
def test_values_in_overlays_are_the_same_as_given_by_options(changes: list[dict[str, Any]], printed: Printed) -> None:
    """Each overlay's values in turn, each after those of the overlay before it."""
    overlays = [merged([nested(option, value) for option, value in change.items()]) for change in changes]
    options = [
        f"--{option}={yaml.safe_dump(v)[:-1].removesuffix('...').strip()}" for c in changes for option, v in c.items()
    ]
    assert printed(full(), *overlays) == printed(full(), options=tuple(options))


def nested(option: str, value: Any) -> dict[str, Any]:
    tree: dict[str, Any] = reduce(lambda inner, name: {name: inner}, reversed(option.split(".")), value)
    return tree
