"""Retention: raw files of old runs go, their manifest, plan and row in the history stay for ever."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import ConfigError, StoreError
from harness.records import Manifest, RunState
from harness.store import history
from harness.store.manifest import CAPACITY, MARK, NAME, from_json, is_alive
from harness.store.parts import RESERVE
from harness.store.root import Root, open_root

_RAW = frozenset({"requests.parquet", "gpu.parquet", "server.parquet", "host.parquet", "server.log", RESERVE})
_RAW_FOLDERS = ("parts", "scratch")
_UNFINISHED = re.compile(r".+\.parquet\.(\d+\.)?tmp")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune did, or would do: campaigns and runs whose raw files went, bytes that their disk got back, and what was kept why."""

    campaigns: tuple[str, ...]
    runs: int
    files: int
    freed_bytes: int
    kept: tuple[tuple[str, str], ...]  # (experiment/campaign, why), old ones only


@dataclass(frozen=True, slots=True)
class _Run:
    """`is_probe`: it belongs to a capacity search, whose row is the history's."""

    path: str
    experiment: str
    manifest: Manifest
    created: datetime
    is_probe: bool


@dataclass(frozen=True, slots=True)
class OldFiles:
    """What a prune would do, and the very files that it would delete: those and no others."""

    would: Pruned
    root: Root
    raw_days: int
    runs: tuple[tuple[str, tuple[dict[str, Any], ...]], ...]  # run directory, its raw files
    logs: tuple[dict[str, Any], ...]  # of servers


def find_old(results_dir: str | Path, raw_days: int) -> OldFiles:
    """Requests, gpu, server and host files, part files and server logs of campaigns whose newest run is over `raw_days` days old.

    A campaign is pruned only whole: every run of it must be in the history and none going on. Deletes nothing. Raises
    ConfigError, StoreError.
    """
    if raw_days < 1:
        raise ConfigError("raw data is kept for at least a day", f"--raw-days {raw_days}", "give 1 or more")
    root = open_root(results_dir)
    campaigns, kept = _campaigns(root)
    have = history.indexed(results_dir)
    before = clock.utc_now() - timedelta(days=raw_days)
    named: list[str] = []
    runs: list[tuple[str, tuple[dict[str, Any], ...]]] = []
    logs: list[dict[str, Any]] = []
    for (experiment, campaign), members in sorted(campaigns.items()):
        if max(run.created for run in members) >= before:
            continue
        name = f"{experiment}/{campaign}"
        if why := _why_kept(root, members, have):
            kept.append((name, why))
            continue
        raw = [(run.path, files) for run in members if (files := tuple(_raw_files(root, run.path)))]
        own_logs = _logs(root, experiment, campaign)
        if raw or own_logs:  # else it was pruned before
            named.append(name)
            runs += raw
            logs += own_logs
    doomed = [info for _, files in runs for info in files] + logs
    would = Pruned(tuple(named), len(runs), len(doomed), _freed(doomed), tuple(kept))
    return OldFiles(would, root, raw_days, tuple(runs), tuple(logs))


def delete(old: OldFiles) -> Pruned:
    """Delete them. A file called pruned.json is left in each run before its first file goes, so a kill in between is
    seen and the next prune ends the work. Raises StoreError."""
    for run_dir, files in old.runs:
        _mark(old.root, run_dir, old.raw_days)
        _remove(old.root, files)
    _remove(old.root, old.logs)
    return old.would


def _campaigns(root: Root) -> tuple[dict[tuple[str, str], list[_Run]], list[tuple[str, str]]]:
    """Runs by (experiment's directory, campaign); a manifest that cannot be read is kept and said."""
    campaigns: dict[tuple[str, str], list[_Run]] = {}
    kept: list[tuple[str, str]] = []
    for path in _manifests(root):
        experiment, run_id, *probe = path.removeprefix(f"{root.path}/").split("/")[:-1]
        try:
            manifest = from_json(root.fs.cat_file(path).decode(), path)
            created = datetime.fromisoformat(manifest.created_utc)
        except (StoreError, OSError, ValueError) as error:
            kept.append((f"{experiment}/{run_id}", f"its manifest cannot be read: {str(error).splitlines()[0]}"))
            continue
        created = created if created.tzinfo else created.replace(tzinfo=UTC)
        run = _Run(path.removesuffix(f"/{NAME}"), experiment, manifest, created, bool(probe))
        campaigns.setdefault((experiment, manifest.campaign_id), []).append(run)
    return campaigns, kept


def _manifests(root: Root) -> list[str]:
    """Of all runs and probes; elsewhere, where each is a request, of campaigns that may have raw files or logs, by one listing."""
    if root.local:
        found = {path.removesuffix(CAPACITY) for path in root.urls(f"*/*/{CAPACITY}")}
        probes = root.urls(f"*/*/*/{NAME}") if found else []
        return [*root.urls(f"*/*/{NAME}"), *(path for path in probes if f"{path.rsplit('/', 2)[0]}/" in found)]
    there = [str(info["name"]).removeprefix(f"{root.path}/").split("/") for info in root.files(root.path)]
    searches = {tuple(parts[:2]) for parts in there if parts[2:] == [CAPACITY]}
    in_runs = [(parts[:2], parts[2:]) for parts in there if len(parts) > 2]
    in_runs += [(run, names[1:]) for run, names in in_runs if tuple(run) in searches and len(names) > 1]
    raw = {
        (experiment, run.partition("_")[0])
        for (experiment, run), (name, *_) in in_runs
        if name in _RAW or name in _RAW_FOLDERS or _UNFINISHED.fullmatch(name)
    } | {(parts[0], parts[2].partition("_")[0]) for parts in there if parts[1:2] == ["server-logs"]}
    runs = [parts for parts in there if parts[-1] == NAME and (len(parts) == 3 or (len(parts) == 4 and tuple(parts[:2]) in searches))]  # fmt: skip
    return [f"{root.path}/{'/'.join(parts)}" for parts in runs if (parts[0], parts[1].partition("_")[0]) in raw]


def _why_kept(root: Root, members: Sequence[_Run], have: dict[tuple[str, str], str]) -> str | None:
    for run in members:
        m = run.manifest
        if m.state == RunState.RUNNING and (not root.local or is_alive(m.owner_pid, m.owner_start_ticks)):
            return f"{m.run_id} is still running" if root.local else f"{m.run_id} says that it is running"
        if not run.is_probe and have.get((m.experiment, m.run_id), RunState.RUNNING) == RunState.RUNNING:
            return f"{m.run_id} is not in the history: run `harness history index` first"
    return None


def _listed(root: Root, folder: str) -> list[dict[str, Any]]:
    """What stands in a folder and is no folder; nothing where it is a link, or is not there. No name is taken for a pattern."""
    if root.local and Path(folder).is_symlink():
        return []
    try:
        return [info for info in root.fs.ls(folder, detail=True) if info["type"] != "directory"]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _raw_files(root: Root, run_dir: str) -> list[dict[str, Any]]:
    named = [(info["name"].rpartition("/")[2], info) for info in _listed(root, run_dir)]
    own = [info for name, info in named if name in _RAW or _UNFINISHED.fullmatch(name)]
    return own + [info for folder in _RAW_FOLDERS for info in _listed(root, f"{run_dir}/{folder}")]


def _logs(root: Root, experiment: str, campaign: str) -> list[dict[str, Any]]:
    """Of the campaign's servers: <campaign>_<target>.log."""
    files = _listed(root, f"{root.path}/{experiment}/server-logs")
    names = [(info["name"].rpartition("/")[2], info) for info in files]
    return [info for name, info in names if name.startswith(f"{campaign}_") and name.endswith(".log")]


def _freed(doomed: Sequence[dict[str, Any]]) -> int:
    """Bytes; a server's log is one file under several names, and is free only when the last one goes."""
    plain = sum(int(info["size"] or 0) for info in doomed if "ino" not in info)
    linked: dict[int, list[dict[str, Any]]] = {}
    for info in doomed:
        if "ino" in info and not info.get("islink"):
            linked.setdefault(info["ino"], []).append(info)
    return plain + sum(int(names[0]["size"]) for names in linked.values() if len(names) >= names[0]["nlink"])


def _mark(root: Root, run_dir: str, raw_days: int) -> None:
    path = f"{run_dir}/{MARK}"
    if not root.fs.exists(path):
        words = {"pruned_utc": clock.utc_now().isoformat(timespec="seconds"), "raw_days": raw_days}
        try:
            root.fs.pipe_file(path, (json.dumps(words) + "\n").encode())
        except OSError as error:
            raise StoreError("run cannot be marked as pruned", path, f"{error}; nothing of it was deleted") from None


def _remove(root: Root, files: Sequence[dict[str, Any]]) -> None:
    for info in files:
        try:
            with suppress(FileNotFoundError):
                root.fs.rm_file(info["name"])
        except OSError as error:
            raise StoreError("raw file cannot be deleted", info["name"], f"{error}; prune again when it can") from None
    if root.local:
        for folder in {str(Path(info["name"]).parent) for info in files}:
            if Path(folder).name in _RAW_FOLDERS:
                with suppress(OSError):
                    Path(folder).rmdir()
