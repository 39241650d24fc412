"""Runs as one file: ``runs.csv.gz``, a tidy table with a row per fact and number, which reports read as run folders.

Gzipped UTF-8 CSV, one observation per row. The columns:

    arm, run, seed, attempt   which run, counted from 1 within its arm; its seed; the start (N of ``version_N``)
    kind                      "fact", "metric", "score" or "actions"
    name                      of the fact, the metric, AGENT/POLICY/returns, or the policy whose actions these are
    index                     log line within the attempt, or episode of an evaluation, counted from 0
    env_steps                 decisions at that line, or of the policy that was scored
    value                     a number; JSON for facts and actions

Facts of the table: "format" (1) and, for runs that no experiment started, "comparison" (agent, baseline, threshold,
floor). Facts of a run: "config" (resolved, as it was written), "environments", "transfers" (T1, T2 and stop as the run
had them), "scores" (protocol and means; the episodes are rows) and "fingerprint". Fact of an attempt: "log", its number
of lines and, in order, its columns with their numbers of values, since an empty field has no row.

The same runs give the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cdrl_pl.report.run_data import ArmData, Array, Attempt, Edge, ReportError, RunData
from cdrl_pl.storage.atomic import write_whole
from cdrl_pl.storage.fingerprint import Fingerprint

TABLE = "runs.csv.gz"
FORMAT = 1
COLUMNS = ("arm", "run", "seed", "attempt", "kind", "name", "index", "env_steps", "value")
Row = tuple[str, ...]
Key = tuple[str, str, str]  # arm, run, seed
Scores = dict[str, dict[str, Any]]
NO_RUN: Key = ("", "", "")  # of facts of the table


@dataclass(frozen=True)
class Settings:
    """What plain runs are compared by; an experiment's file says the same of its own.

    Attributes:
        agent: the agent measured; None: the first that learned.
        baseline: the arm compared with; None: the first.
        threshold: training return whose first crossing is timed; None: none.
        floor: return of a policy that knows nothing; None: 0.
    """

    agent: str | None = None
    baseline: str | None = None
    threshold: float | None = None
    floor: float | None = None

    def over(self, other: Settings | None) -> Settings:
        """These where they say something, and the other's where they do not."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other or Settings(), **given)


@dataclass(frozen=True)
class Table:
    """The content of a file.

    Attributes:
        arms: with their runs; without titles, which an experiment's file has.
        settings: of a comparison of plain runs; None for an experiment's.
    """

    arms: list[ArmData]
    settings: Settings | None


def write_table(arms: Sequence[ArmData], settings: Settings | None, path: Path) -> None:
    """Writes the runs, having seen that they can be read back.

    Raises:
        ReportError: they cannot, such as for a column of a log that is not in order.
    """
    content = encode(arms, settings)
    again = decode(content, path)
    if encode(again.arms, again.settings) != content:
        raise ReportError(f"{path} is not written: the runs do not come back from it as they are")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def read_table(path: Path) -> Table:
    """The runs of a file.

    Raises:
        ReportError: it cannot be read, with what is wrong and where to get a whole one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    return decode(content, path)


def encode(arms: Sequence[ArmData], settings: Settings | None) -> bytes:
    """The bytes of a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerow(_fact(NO_RUN, "", "format", FORMAT))
    if settings is not None:
        writer.writerow(_fact(NO_RUN, "", "comparison", asdict(settings)))
    keyed = [
        ((arm.name, str(number), "" if run.seed is None else str(run.seed)), run)
        for arm in arms
        for number, run in enumerate(arm.runs, 1)
    ]
    for key, run in keyed:  # all facts first: the configs of one experiment are alike, which compresses well
        writer.writerows(_facts(key, run))
    for key, run in keyed:
        writer.writerows(_scores(key, run))
        for attempt in run.attempts:
            writer.writerows(_log(key, attempt))
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, packed, mtime=0) as file:  # neither a name nor a time in it
        file.write(text.getvalue().encode())
    return packed.getvalue()


def _fact(key: Key, attempt: str, name: str, value: Any) -> Row:
    return (*key, attempt, "fact", name, "", "", json.dumps(value))


def _facts(key: Key, run: RunData) -> Iterator[Row]:
    yield _fact(key, "", "config", run.config)
    yield _fact(key, "", "environments", run.environments)
    yield _fact(key, "", "transfers", {name: asdict(edge) for name, edge in run.transfers.items()})
    yield _fact(key, "", "scores", _each_evaluation(run.scores, lambda _, value: [] if _is_series(value) else value))
    yield _fact(key, "", "fingerprint", run.fingerprint and asdict(run.fingerprint))
    for attempt in run.attempts:
        values = {column: int(np.count_nonzero(~np.isnan(numbers))) for column, numbers in attempt.log.items()}
        yield _fact(key, str(attempt.number), "log", {"lines": attempt.lines, "columns": values})


def _scores(key: Key, run: RunData) -> Iterator[Row]:
    for agent, record in run.scores.items():
        steps = "" if record.get("env_steps") is None else _text(record["env_steps"])
        for policy, evaluation in record.get("evaluation", {}).items():
            for name, values in evaluation.items():
                for episode, value in enumerate(values if _is_series(values) else ()):
                    yield (*key, "", "score", f"{agent}/{policy}/{name}", str(episode), steps, _text(value))


def _log(key: Key, attempt: Attempt) -> Iterator[Row]:
    number = str(attempt.number)
    decisions = attempt.log.get("env_steps", np.full(attempt.lines, np.nan))
    steps = ["" if np.isnan(value) else _text(value) for value in decisions]
    for column, values in attempt.log.items():
        for line, value in enumerate(values):
            if not np.isnan(value):
                yield (*key, number, "metric", column, str(line), steps[line], _text(value))
    said = [
        (line.get("env_steps", ""), {p: v for p, v in line.items() if p != "env_steps"}) for line in attempt.actions
    ]
    for line, (at, policies) in enumerate((at, policies) for at, policies in said if policies):
        for policy, value in policies.items():
            yield (*key, number, "actions", policy, str(line), str(at), json.dumps(value))


def _text(value: float) -> str:
    """The shortest text that is read as the same number."""
    return repr(float(value)).removesuffix(".0")


def _is_series(value: Any) -> bool:
    """Returns whether it is a number per episode, such as returns."""
    return isinstance(value, list) and all(type(v) in (int, float) for v in value)


def _each_evaluation(scores: Scores, change: Callable[[str, Any], Any]) -> Scores:
    """Scores with every entry of every evaluation changed, given AGENT/POLICY/ENTRY and what it is."""
    return {
        agent: {
            **record,
            "evaluation": {
                policy: {name: change(f"{agent}/{policy}/{name}", value) for name, value in evaluation.items()}
                for policy, evaluation in record.get("evaluation", {}).items()
            },
        }
        for agent, record in scores.items()
    }


def decode(content: bytes, path: Path) -> Table:
    """The runs of a file's bytes; ``path`` is for messages. Raises as ``read_table``."""
    try:
        rows = csv.reader(io.StringIO(gzip.decompress(content).decode(), newline=""))
        head = next(rows, [])
        if missing := [column for column in COLUMNS if column not in head]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        return _decode(list(_fields(rows, [head.index(column) for column in COLUMNS])), path)
    except ReportError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile):
        why = "it is damaged, cut short, or no gzip file"
    except UnicodeDecodeError:
        why = "it is not UTF-8"
    except KeyError as error:
        why = f"nothing in it says {error}"
    except (csv.Error, IndexError, TypeError, ValueError, AttributeError) as error:
        why = str(error)
    raise ReportError(
        f"{path} cannot be read: {why}; get the whole file again, or write it anew from the run folders with "
        "report --table"
    )


def _fields(rows: Iterable[list[str]], places: list[int]) -> Iterator[list[str]]:
    for number, row in enumerate(rows, 2):
        if len(row) <= max(places):
            raise ValueError(f"row {number} is cut short")
        yield [row[place] for place in places]


def _decode(rows: list[list[str]], path: Path) -> Table:
    facts: dict[Key, dict[str, dict[str, Any]]] = {}  # of a run, by attempt ("" for the run's own) and name
    for arm, run, seed, attempt, kind, name, _, _, value in rows:
        if kind == "fact":
            facts.setdefault((arm, run, seed), {}).setdefault(attempt, {})[name] = json.loads(value)
    own = facts.pop(NO_RUN, {}).get("", {})
    if own["format"] != FORMAT:
        raise ReportError(
            f"{path} has format {own['format']}, and this program reads format {FORMAT}: use the version of the "
            "program that wrote it, or a newer one"
        )
    starts = {
        (key, attempt): _Start({c: np.full(about["log"]["lines"], np.nan) for c in about["log"]["columns"]}, {})
        for key, attempts in facts.items()
        for attempt, about in attempts.items()
        if attempt
    }
    series: dict[Key, dict[str, dict[int, float]]] = {key: {} for key in facts}
    for arm, run, seed, attempt, kind, name, index, steps, value in rows:
        key = arm, run, seed
        if kind == "metric":
            starts[key, attempt].log[name][_count(index)] = float(value)
        elif kind == "score":
            series[key].setdefault(name, {})[_count(index)] = float(value)
        elif kind == "actions":
            line = starts[key, attempt].actions.setdefault(_count(index), {"env_steps": int(steps)} if steps else {})
            line[name] = json.loads(value)
        elif kind != "fact":
            raise ValueError(f"there is no kind {kind!r}")
    arms: dict[str, list[RunData]] = {arm: [] for arm, _, _ in facts}
    for key, about in sorted(facts.items(), key=lambda item: int(item[0][1])):
        attempts = []
        for number in sorted(filter(None, about), key=int):
            start = starts[key, number]
            _check_whole(start.log, about[number]["log"]["columns"])
            attempts.append(Attempt(int(number), start.log, _in_order(start.actions)))
        arms[key[0]].append(_run(key, about[""], attempts, series[key], path))
    settings = Settings(**own["comparison"]) if "comparison" in own else None
    return Table([ArmData(arm, "", runs) for arm, runs in arms.items()], settings)


@dataclass(frozen=True)
class _Start:
    """An attempt that is being read: its log, and lines of action distributions by their index."""

    log: dict[str, Array]
    actions: dict[int, dict[str, Any]]


def _check_whole(log: dict[str, Array], counts: dict[str, int]) -> None:
    for column, count in counts.items():
        if (found := np.count_nonzero(~np.isnan(log[column]))) != count:
            raise ValueError(f"it has {found} of {count} values of {column}")


def _run(
    key: Key, about: dict[str, Any], attempts: list[Attempt], series: dict[str, dict[int, float]], path: Path
) -> RunData:
    arm, number, seed = key
    made = about["fingerprint"]
    run = RunData(
        place=f"{path}, arm {arm}, run {number}",
        seed=int(seed) if seed else None,
        attempts=attempts,
        config=about["config"],
        environments=about["environments"],
        transfers={name: Edge(**edge) for name, edge in about["transfers"].items()},
        scores=_each_evaluation(about["scores"], lambda name, value: _in_order(series.get(name, {})) or value),
        fingerprint=Fingerprint(**made) if made else None,
    )
    if "env_steps" not in run.metrics:
        raise ValueError(f"arm {arm}, run {number} has no metric env_steps")
    return run


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no index")
    return int(text)


def _in_order(found: dict[int, Any]) -> list[Any]:
    return [value for _, value in sorted(found.items())]
