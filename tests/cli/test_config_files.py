"""Config files that cannot be read, names that YAML takes for something else, and files that configs name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import command_line
import pytest
import yaml
from command_line import CONFIGS, Run, callback, edge, pole, tiny, write

from cdrl_pl.storage.fingerprint import config_hash

run, build, refused = command_line.run, command_line.build, command_line.refused
Refused = Callable[..., str]
TEACHERS = CONFIGS.parent / "teachers"


def named(path: Path, option: str = "--config") -> list[str | Path]:
    """A good config, and one more."""
    return ["--config", write(path.parent / "tiny.yaml", tiny()), option, path]


# Files that cannot be read


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"model:\n  T_max: [\n", "over.yaml, line 3 is not YAML: "),
        (b"model:\n\tT_max: 5\n", "over.yaml, line 2 is not YAML: "),
        (b"model: {T_max: 5\n", "over.yaml, line 2 is not YAML: "),
        (b"model: *other\n", "over.yaml, line 1 is not YAML: "),
        (b"- model\n", "over.yaml is a list; it must be a mapping of options (model, data, trainer, ...)"),
        (b"5\n", "over.yaml is 5; it must be a mapping of options"),
        (b"model\n", "over.yaml is 'model'; it must be a mapping of options"),
        (b"model: {}\ndata: \xff\xfe\n", "over.yaml, line 2: this is no text in UTF-8"),
        (b"\x00\x01\x02", "over.yaml is not YAML: "),
        (b"model: &model {T_max: 5, more: *model}\n", "over.yaml' refers to itself"),
        (b"model: {T_max: 5}\ndata: {}\nmodel: {}\n", "over.yaml, line 3: the config names model twice"),
        (b"model:\n  agents:\n    a: {}\n    'a': {}\n", "over.yaml, line 4: model.agents names a twice"),
        (b"model: over.yaml\n", "over.yaml' refers to itself"),
        (b"model: nowhere.yaml\n", "nowhere.yaml' does not exist"),
    ],
)
def test_a_file_that_is_no_config_is_named_with_the_line(
    content: bytes, says: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "over.yaml").write_bytes(content)
    assert says in refused(*named(tmp_path / "over.yaml"))


def test_a_folder_and_a_file_that_is_not_there_are_no_configs(refused: Refused, tmp_path: Path) -> None:
    assert refused(*named(tmp_path)).endswith("cannot be read: Is a directory")
    assert refused(*named(tmp_path / "over.yaml")) == f"config file '{tmp_path / 'over.yaml'}' does not exist"
    assert "expected one argument" in refused("--config", write(tmp_path / "tiny.yaml", tiny()), "--config")


@pytest.mark.parametrize("text", ["", "# nothing\n", "model:\n", "model: {}\n", "data: null\n"])
def test_an_empty_overlay_changes_nothing(text: str, build: Run, tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text(text)
    words = named(tmp_path / "over.yaml")
    if text in ("model:\n", "data: null\n"):
        words = [*words, *words[:2]]  # null stands instead of all that was there
    assert build("fit", *words).model.T_max == 120


@pytest.mark.parametrize("name", ["over", "over.txt", "over.yaml"])
@pytest.mark.parametrize("option", ["--config", "-c"])
def test_fault_29_every_config_is_looked_at_whatever_its_name(
    name: str, option: str, refused: Refused, tmp_path: Path
) -> None:
    path = write(tmp_path / name, {"trainer": {"callbacks": [callback("canary.Canary")]}})
    text = refused(*named(path, option), "--imports=callbacks")
    assert "trainer.callbacks[0].class_path is 'canary.Canary'; --imports allows only" in text


# Names of version 0.1


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("online_2", "paper/online_2"),
        ("short", "overlays/short"),
        ("controls/random", "overlays/control_random"),
        ("controls/own", "overlays/control_own"),
        ("teacher_pong", "teachers/pong"),
        ("transfer_bowling", "paper/online_2_early"),
        ("cartpole", "ground_truth/cartpole.yaml or configs/teachers/cartpole"),
        ("paper/online_3", "paper/online_2"),
    ],
)
def test_a_config_that_has_moved_names_its_new_place(old: str, now: str, refused: Refused, tmp_path: Path) -> None:
    for path in CONFIGS.rglob("*.yaml"):
        copy = tmp_path / path.relative_to(CONFIGS.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    text = refused("--config", f"configs/{old}.yaml")
    assert text == f"config file 'configs/{old}.yaml' does not exist; did you mean configs/{now}.yaml?"


# Names that YAML takes for something else


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("1", "a number"),
        ("1.5", "a number"),
        ("1e5", "a number"),
        ("0x1", "a number"),
        ("no", "true or false"),
        ("on", "true or false"),
        ("True", "true or false"),
        ("null", "null"),
        ("~", "null"),
    ],
)
def test_an_agent_whose_name_is_no_text_to_yaml_is_refused(
    name: str, kind: str, refused: Refused, build: Run, tmp_path: Path
) -> None:
    config = "model:\n  agents:\n    {}:\n" + "      env: {{id: CartPole-v1}}\n      network: {{trunk: mlp}}\n"
    (tmp_path / "names.yaml").write_text(config.format(name))
    text = refused("--config", tmp_path / "names.yaml")
    meant = f'model.agents names {name}, which YAML takes for {kind}; write "{name}", or choose another name'
    assert text == f"{tmp_path / 'names.yaml'}, line 3: {meant}"
    if name not in ("~", "1.5"):  # these are no names of agents
        (tmp_path / "names.yaml").write_text(config.format(json.dumps(name)))
        assert list(build("fit", "--config", tmp_path / "names.yaml").model.agents) == [name]


def test_an_agent_with_such_a_name_is_refused_on_the_command_line_too(refused: Refused) -> None:
    said = "model.agents names False, which is no text; quote it, or choose another name"
    assert refused("--model.agents={no: {env: {id: CartPole-v1}, network: {trunk: mlp}}}") == said


@pytest.mark.parametrize("name", ["1", "no", "null"])
def test_a_run_of_an_agent_with_such_a_name_can_be_started_from_its_config(name: str, run: Run, tmp_path: Path) -> None:
    first = run("fit", "--config", write(tmp_path / "tiny.yaml", tiny(**{name: pole()})), "--T_max=20")
    config = Path(first.trainer.log_dir or "") / "config.yaml"
    assert run("fit", "--config", config).model.env_steps == {name: 20}


def test_names_that_are_no_text_are_refused_everywhere(refused: Refused, tmp_path: Path) -> None:
    for text, place in (("on: 5", "the config"), ("model: {1: 2}", "model"), ("trainer: {plugins: [{no: 1}]}", "")):
        (tmp_path / "over.yaml").write_text(text)
        assert f"{place or 'trainer.plugins[0]'} names " in refused(*named(tmp_path / "over.yaml"))


# Files that configs name


TEACHER = {"teacher": {"certificate": "experts/cartpole"}, "beta": pole()}
STORED = edge(teacher="teacher", T1=None, alignment={"file": "stored/alignment.safetensors"})


def store(folder: Path, content: str = "{}") -> None:
    """A teacher below a folder, and something in place of an alignment."""
    (folder / "experts").mkdir()
    (folder / "experts" / "cartpole").symlink_to(TEACHERS / "cartpole")
    (folder / "stored").mkdir()
    (folder / "stored" / "alignment.safetensors").write_text(content)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A config that names a teacher and an alignment, in a folder that is not the current one."""
    (tmp_path / "elsewhere").mkdir()
    return write(tmp_path / "elsewhere" / "tiny.yaml", tiny(transfers=[STORED], **TEACHER))


@pytest.fixture
def paths(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Where a config's teacher and alignment were found."""

    def go(*configs: Path) -> list[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run("fit", *(word for path in configs for word in ("--config", path)), "--print_config")
        assert end.value.code == 0
        model = yaml.safe_load(capsys.readouterr().out)["model"]
        return [model["agents"]["teacher"]["certificate"], model["transfers"][0]["alignment"]["file"]]

    return go


FOUND = ["experts/cartpole", "stored/alignment.safetensors"]


def test_a_teacher_is_looked_for_here_and_then_beside_the_config(
    elsewhere: Path, paths: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert paths(elsewhere) == FOUND  # nowhere: as they were named
    store(elsewhere.parent)
    assert paths(elsewhere) == [str(elsewhere.parent / path) for path in FOUND]
    assert paths(Path("elsewhere/tiny.yaml")) == [f"elsewhere/{path}" for path in FOUND]
    store(tmp_path)
    assert paths(elsewhere) == FOUND


def test_it_is_looked_for_beside_the_config_that_names_it(
    elsewhere: Path, paths: Callable[..., list[str]], tmp_path: Path
) -> None:
    store(elsewhere.parent)
    (tmp_path / "third").mkdir()
    over = write(tmp_path / "third" / "over.yaml", {"model": {"T_max": 5}})
    assert paths(elsewhere, over) == [str(elsewhere.parent / path) for path in FOUND]
    dotted = write(tmp_path / "third" / "dots.yaml", {"model.agents.teacher.certificate": "../third"})
    assert paths(elsewhere, dotted)[0] == str(tmp_path / "third" / "../third")


def test_a_run_with_a_teacher_beside_its_config(build: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    store(tmp_path / "elsewhere")
    config = tiny(transfers=[edge(teacher="teacher")], **TEACHER)
    built = build("fit", "--config", write(tmp_path / "elsewhere" / "tiny.yaml", config))
    assert built.model.agents["teacher"].learner is None


@pytest.mark.parametrize("relative", [True, False])
def test_an_error_says_where_a_teacher_was_looked_for(
    relative: bool, elsewhere: Path, refused: Refused, tmp_path: Path
) -> None:
    config = Path("elsewhere/tiny.yaml") if relative else elsewhere
    said = "there is no 'experts/cartpole'; looked in"
    text = refused("--config", config)
    assert text.startswith("model.agents.teacher.certificate: experts/cartpole/certificate.json cannot be read: ")
    assert text.endswith(f"{said} {tmp_path} and in {config.parent}, not shipped")
    text = refused("--config", config, f"--model.agents.teacher.certificate={TEACHERS / 'cartpole'}")
    assert text.startswith("model.transfers[0].alignment.file: ") and text.endswith(
        f"and in {config.parent}, not shipped"
    )
    here = write(tmp_path / "tiny.yaml", tiny(**TEACHER))
    assert refused("--config", here).endswith(f"{said} {tmp_path}, not shipped")
    assert refused("--config", here, "--model.agents.teacher.certificate=/nowhere").endswith("no '/nowhere'")
    assert refused("--teacher=nowhere", command="test").endswith(
        f"there is no 'nowhere'; looked in {tmp_path}, not shipped"
    )


def test_a_graph_is_looked_for_where_a_teacher_is(build: Run, refused: Refused, tmp_path: Path) -> None:
    graphs = pytest.importorskip("onnx_graphs")
    expert = {"env": {"id": "CartPole-v1"}, "policy": "graphs/expert.onnx"}
    (tmp_path / "elsewhere" / "graphs").mkdir(parents=True)
    config = write(
        tmp_path / "elsewhere" / "tiny.yaml", tiny(transfers=[edge(teacher="teacher")], beta=pole(), teacher=expert)
    )
    assert refused("--config", config) == (
        "model.agents.teacher.policy: graphs/expert.onnx cannot be read: there is no 'graphs/expert.onnx'; "
        f"looked in {tmp_path} and in {config.parent}, not shipped"
    )
    graphs.save(config.parent / "graphs" / "expert.onnx", graphs.linear())
    assert build("fit", "--config", config).model.agents["teacher"].network.graph.num_actions == 2
    own = write(tmp_path / "own.yaml", tiny(teacher={**expert, "policy": "nowhere.Policy"}, beta=pole()))
    assert "nowhere.Policy" in refused("--config", own) and "looked in" not in refused("--config", own)


def test_a_stored_alignment_counts_by_its_content(tmp_path: Path) -> None:
    for name, content in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(content)
    a, b, c, d = (
        config_hash({"model": {"transfers": [edge(alignment={"file": str(tmp_path / name)})]}}) for name in "abcd"
    )
    assert a == b and len({a, c, d}) == 3
