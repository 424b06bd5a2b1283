"""Broken run directories: a file of one damaged, gone or a folder, or a JSON field of a wrong type; and the commands that read it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import stored, values

Words = Callable[[Path, Path], list[str]]  # the broken results directory, the whole one -> what is typed


@dataclass(frozen=True, slots=True)
class Case:
    """`spoil` breaks a copy of the results directory. `refused`: the commands that read the run must not take it as it is."""

    what: str
    spoil: Callable[[Path], None]
    refused: bool = False


def _small(results: Path) -> str:
    return str(results / "small")


def _first_run(results: Path) -> str:
    return str(min(path for path in (results / "small").iterdir() if path.name.startswith(stored.CAMPAIGN)))


COMMANDS: dict[str, Words] = {
    "analyse": lambda r, _: ["analyse", _small(r), "--json"],
    "analyse all": lambda r, _: ["analyse", _small(r), "--campaign", "all"],
    "report": lambda r, _: ["report", _small(r), "--allow-invalid"],
    "cost of": lambda r, _: ["cost", _small(r), "--allow-invalid"],
    "cost json": lambda r, _: ["cost", "of", _small(r), "--allow-invalid", "--json"],
    "compare new": lambda r, c: ["compare", _small(c), _small(r), "--json"],
    "compare base": lambda r, c: ["compare", _small(r), _small(c)],
    "detect": lambda r, _: ["compare", _small(r), "--detect", "5%"],
    "index": lambda r, _: ["history", "index", str(r), "--rebuild"],
    "trend": lambda r, _: ["history", str(r), "--html", str(r / "trend.html")],
    "sql": lambda r, _: ["history", "sql", "select * from runs", "--results", str(r), "--csv"],
    "raw sql": lambda r, _: [
        "history",
        "sql",
        "select count(*), avg(sent_ns) from requests",
        "--results",
        str(r),
        "--json",
    ],
    "prune": lambda r, _: ["history", "prune", str(r), "--raw-days", "1", "--dry-run"],
    "recover": lambda r, _: ["recover", _small(r)],
    "decide": lambda r, _: ["cost", "decide", "startup-chat", "--run", _small(r)],
    "scenario": lambda r, _: ["cost", "scenario", "startup-chat", "--run", _small(r), "--json"],
    "focus": lambda r, _: ["cost", "export", _small(r), "--format", "focus", "--allow-invalid"],
    "opencost": lambda r, _: ["cost", "export", _small(r), "--format", "opencost", "--allow-invalid"],
    "attribute": lambda r, _: ["cost", "attribute", _small(r)],
    "reproduce": lambda r, _: ["reproduce", "embedded", "--from", _small(r)],
    "resume": lambda r, _: [
        "run",
        str(r / "small" / "small.yaml"),
        "--out",
        _small(r),
        "--dry-run",
        "--resume",
        stored.CAMPAIGN,
    ],
}
OFTEN = ("analyse", "cost of", "cost json", "compare new", "index", "decide", "focus", "report")
READ = {
    "manifest.json": tuple(c for c in COMMANDS if c not in ("sql", "raw sql", "trend")),
    "capacity.json": ("analyse", "report", "decide"),
}
STRICT = "declared fields of a manifest, which may be nothing else"


def files(results: Path) -> list[Path]:
    """What a run, a search, a campaign and the history are made of, relative to the results directory."""
    kept = (".json", ".parquet", ".log", ".yaml")
    return sorted(
        p.relative_to(results)
        for p in results.rglob("*")
        if p.is_file() and p.suffix in kept and "derived" not in p.parts
    )


def json_cases(results: Path, draw: random.Random) -> Iterator[Case]:
    """Every place of every JSON file with a wrong value, one after another, in a random order; without end."""
    found = [path for path in files(results) if path.suffix == ".json"]
    everywhere = [(path, place) for path in found for place in values.places(json.loads((results / path).read_text()))]
    while True:
        draw.shuffle(everywhere)
        for path, place in everywhere:
            value = draw.choice(values.WRONG)
            yield _json_case(results, path, place, value, gone=draw.random() < 0.1)


def _json_case(results: Path, path: Path, place: values.Place, value: object, *, gone: bool) -> Case:
    data = json.loads((results / path).read_text())
    made = values.drop(data, place) if gone else values.put(data, place, value)
    said = "gone" if gone else f"{value!r:.40}"
    return Case(
        f"{path.name} of {path.parent.name}: {'.'.join(map(str, place))} = {said}",
        lambda root: _write(root / path, json.dumps(made).encode()),
    )


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def file_cases(results: Path, draw: random.Random) -> Iterator[Case]:
    """Files damaged, gone, or a folder under their name; without end."""
    found = files(results)
    while True:
        path = draw.choice(found)
        kind = draw.random()
        if kind < 0.08:
            yield Case(f"{path}: gone", lambda root, path=path: (root / path).unlink())
        elif kind < 0.12:
            yield Case(f"{path}: a folder", lambda root, path=path: _folder(root / path))
        else:
            what, data = values.damaged((results / path).read_bytes(), draw)
            yield Case(f"{path}: {what}", lambda root, path=path, data=data: _write(root / path, data))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cases(results: Path, draw: random.Random) -> Iterator[tuple[Case, str]]:
    """(case, name of a command), half JSON fields and half files."""
    both = json_cases(results, draw), file_cases(results, draw)
    names = [*COMMANDS, *OFTEN]
    while True:
        yield next(draw.choice(both)), draw.choice(names)


def copied(results: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(results, to)
    return to
