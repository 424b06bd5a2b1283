"""Results at a URL (s3://bucket/nightly), read as ever: their files are fetched into a folder of this machine that mirrors the store.

The mirror stands in the user's cache directory (XDG_CACHE_HOME), one folder a bucket. In each folder `.etags` says which version
of a file it has, so that nothing is fetched twice; what `harness run --results URL` has not uploaded yet stands there too, has no entry,
and is never replaced. A run is fetched as it was uploaded, its manifest last: a run without one is not there. Beyond HARNESS_CACHE_GIB (50)
what was read or put longest ago goes from this machine, if the store has it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.base.errors import HarnessError, StoreError
from harness.base.files import cache_dir, whole_file, write_whole
from harness.store.manifest import NAME
from harness.store.root import Root, open_root, unreachable

RECORD = ".etags"
AT_ONCE = 8  # requests under way
CACHE_GIB = 50.0
_URL = re.compile(r"[A-Za-z][\w+.-]*://")
_NO_RUNS = frozenset({"campaigns", "derived", "history", "interrupted", "monitor", "server-logs"})


def is_url(words: object) -> bool:
    """Whether it is s3://bucket/.. or its like, and no path."""
    return bool(_URL.match(str(words)))


@dataclass(frozen=True, slots=True)
class Mirror:
    """A store and the folder of this machine that mirrors it; `here` is the folder of the root's own path."""

    root: Root
    here: Path

    def place(self, path: str) -> Path | None:
        """Where a file of the store stands here; None for a name that would lead out of the mirror."""
        rest = path.removeprefix(self.root.path).lstrip("/")
        parts = rest.split("/") if rest else []
        return None if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts) else self.here.joinpath(*parts)  # fmt: skip

    def fetch(self, infos: Iterable[dict[str, Any]]) -> list[Path]:
        """The files here, those that were not (or are of another version now) fetched; a file that was changed or made here stays.

        Raises StoreError; FileNotFoundError where one has gone since it was listed.
        """
        paths: list[Path] = []
        wanted: list[tuple[dict[str, Any], Path]] = []
        records: dict[Path, dict[str, Any]] = {}
        for info in infos:
            path = self.place(str(info["name"]))
            if path is None:
                continue
            paths.append(path)
            record = records.setdefault(path.parent, read_record(path.parent))
            if _is_ours(path, record) or _is_same(path, record, info):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            wanted.append((info, path))
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda one: self._get(one[0], one[1], records[one[1].parent]), wanted))
        finally:
            for folder in {path.parent for _, path in wanted}:
                write_record(folder, records[folder])
        return paths

    def _get(self, info: dict[str, Any], path: Path, record: dict[str, Any]) -> None:
        try:
            with whole_file(path, synced=False) as part:
                self.root.fs.get_file(info["name"], str(part))
                if part.stat().st_size != info["size"]:
                    raise StoreError("file changed while it was fetched", self.root.url(info["name"]), "try again")
            note(record, path, info)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise unreachable(self.root, error, info["name"]) from None

    def exactly(self, folder: str, suffix: str) -> list[Path]:
        """Every file of a folder in the root that ends so, here; what was fetched earlier and has gone there goes here too. Raises as `fetch`."""
        infos = self.root.files(f"{self.root.path}/{folder}")
        paths = self.fetch(info for info in infos if str(info["name"]).endswith(suffix))
        kept = set(paths)
        for parent in {path.parent for path in (self.here / folder).rglob(RECORD)}:
            record = read_record(parent)
            gone = [name for name in record if parent / name not in kept]
            for name in gone:
                (parent / name).unlink(missing_ok=True)
                del record[name]
            if gone:
                write_record(parent, record)
        return paths


def open_mirror(url: str) -> Mirror:
    """Of a URL, which need not exist. Raises ConfigError: its filesystem is not installed, no cache directory."""
    return mirror_of(open_root(url))


def mirror_of(root: Root) -> Mirror:
    """Raises ConfigError: no cache directory."""
    scheme = "file" if root.local else root.prefix.removesuffix("://")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") if root.is_s3 else None
    if endpoint:  # the same bucket's name, another store
        scheme += f"-{hashlib.sha256(endpoint.encode()).hexdigest()[:8]}"
    return Mirror(root, cache_dir("results").joinpath(scheme, *PurePosixPath(root.path.lstrip("/")).parts))


# ---------------------------------------------------------------- which version of a file is here


def version_of(info: dict[str, Any]) -> str:
    """What changes when the file does: its ETag, else when it was written, with its size."""
    mark = next((str(info[key]) for key in ("ETag", "etag", "md5Hash") if info.get(key)), "")
    when = next((str(info[key]) for key in ("LastModified", "mtime", "created") if info.get(key)), "")
    return f"{mark or when}:{info['size']}"


def read_record(folder: Path) -> dict[str, Any]:
    """Versions of a mirrored folder's files, by name; empty where there is no record, or none that can be read."""
    try:
        data = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Raises StoreError."""
    try:
        write_whole(folder / RECORD, json.dumps(record, indent=0), synced=False)
    except OSError as error:
        raise StoreError("cache cannot be written", folder / RECORD, f"{error.strerror}; free disk space") from error


def note(record: dict[str, Any], path: Path, info: dict[str, Any]) -> None:
    """Into the record: the file here is that of `info`."""
    stat = path.stat()
    record[path.name] = {"version": version_of(info), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _is_ours(path: Path, record: dict[str, Any]) -> bool:
    """Made or changed on this machine: the store's must not replace it."""
    try:
        stat = path.stat()
    except OSError:
        return False
    entry = record.get(path.name)
    return not isinstance(entry, dict) or (entry.get("size"), entry.get("mtime_ns")) != (stat.st_size, stat.st_mtime_ns)


def _is_same(path: Path, record: dict[str, Any], info: dict[str, Any]) -> bool:
    entry = record.get(path.name)
    return path.exists() and isinstance(entry, dict) and entry.get("version") == version_of(info)


def trim(in_use: Iterable[Path] = ()) -> None:
    """Delete what the store has too from the folders used longest ago, until all mirrors are within HARNESS_CACHE_GIB; `in_use` are folders
    that stay. Never raises: it is tried again the next time."""
    try:
        limit = float(os.environ.get("HARNESS_CACHE_GIB", CACHE_GIB)) * 2**30
        used = sorted((record.stat().st_mtime_ns, record.parent) for record in cache_dir("results").rglob(RECORD))
        stored = {folder: [f for f in folder.iterdir() if f.name in read_record(folder)] for _, folder in used}
        total = sum(path.stat().st_size for paths in stored.values() for path in paths)
        kept = set(in_use)
        for folder in [folder for _, folder in used if folder not in kept]:
            if total <= limit:
                return
            record = read_record(folder)
            for path in sorted(
                stored[folder], key=lambda path: path.name != NAME
            ):  # a run is not there before it is half there
                if not _is_ours(path, record):
                    total -= path.stat().st_size
                    path.unlink()
            (folder / RECORD).unlink()
            with suppress(OSError):
                folder.rmdir()
    except (OSError, ValueError, HarnessError):
        return


# ---------------------------------------------------------------- runs


def fetched(where: str | Path, campaign: str | None = None, say: Callable[[str], None] | None = None) -> Path:
    """A directory of this machine with what `where` holds: itself, or for a URL its runs, fetched.

    Of an experiment the newest campaign (`campaign`: another one's id, or "all"), of all results every run. Raises StoreError.
    """
    if not is_url(where):
        return Path(where)
    mirror = open_mirror(str(where))
    root = mirror.root
    if root.local:
        return Path(root.path)
    runs = _runs(root, campaign)
    if not runs:
        advice = "no run there has a manifest.json; give the URL of a run, an experiment or of all results"
        raise StoreError("no run to fetch", root.shown, advice)
    fetch_runs(mirror, runs, say)
    return mirror.here


def fetch_runs(mirror: Mirror, runs: Sequence[list[dict[str, Any]]], say: Callable[[str], None] | None = None) -> None:
    """Runs (the files of each) into the mirror, manifests last; logs are left out. Raises StoreError."""
    kept = [info for files in runs for info in files if str(info["name"]).endswith((".parquet", ".json"))]
    if say is not None:
        say(f"{mirror.root.shown}: {len(runs)} runs, {sum(int(i['size']) for i in kept) / 1e6:,.1f} MB, read in {mirror.here}")  # fmt: skip
    try:
        mirror.fetch(info for info in kept if not str(info["name"]).endswith(f"/{NAME}"))
        mirror.fetch(sorted((info for info in kept if str(info["name"]).endswith(f"/{NAME}")), key=_deepest_first))
    except FileNotFoundError as error:
        raise unreachable(mirror.root, error) from None
    folders = {path.parent for info in kept if (path := mirror.place(str(info["name"]))) is not None}
    for folder in folders:
        with suppress(OSError):
            os.utime(folder / RECORD)
    trim(folders)


def _deepest_first(info: dict[str, Any]) -> int:
    return -str(info["name"]).count("/")


def _is_whole(files: Sequence[dict[str, Any]], folder: str) -> bool:
    return any(info["name"] == f"{folder}/{NAME}" for info in files)


def _runs(root: Root, campaign: str | None) -> list[list[dict[str, Any]]]:
    """The files of each run at the root's path."""
    children = root.children(root.path)
    if _is_whole(children, root.path):
        return [root.files(root.path)]
    folders = [c["name"] for c in children if c["type"] == "directory" and c["name"].rpartition("/")[2] not in _NO_RUNS]
    if campaign != "all" and any(_is_whole(root.children(f), f) for f in sorted(folders, reverse=True)[:3]):
        return campaign_runs(root, folders, campaign)
    files = root.files(root.path)
    whole = {str(i["name"]).removesuffix(f"/{NAME}") for i in files if str(i["name"]).endswith(f"/{NAME}")}
    runs: dict[str, list[dict[str, Any]]] = {}
    for info in files:
        above = [str(parent) for parent in reversed(PurePosixPath(str(info["name"])).parents)]
        if top := next((folder for folder in above if folder in whole), None):  # a search's probes are runs inside it
            runs.setdefault(top, []).append(info)
    return list(runs.values())


def campaign_runs(root: Root, folders: Sequence[str], campaign: str | None) -> list[list[dict[str, Any]]]:
    """The files of each whole run of a campaign, by default the newest that has one, among an experiment's folders."""
    by_campaign: dict[str, list[str]] = {}
    for folder in folders:
        by_campaign.setdefault(folder.rpartition("/")[2].partition("_")[0], []).append(folder)
    wanted = [campaign] if campaign is not None else sorted(by_campaign, reverse=True)
    for name in wanted:
        members = by_campaign.get(name, [])
        with ThreadPoolExecutor(AT_ONCE) as pool:
            listed = list(pool.map(root.files, members))
        if runs := [files for folder, files in zip(members, listed, strict=True) if _is_whole(files, folder)]:
            return runs
    return []


def fetch_campaign(url: str, experiment: str, campaign_id: str | None, *, finished_too: bool = False) -> None:
    """What a campaign left at `url`, into the mirror, for its resumption here: its file and its runs. `campaign_id` None: the newest that
    is open, with `finished_too` the newest. Nothing where there is none. Raises StoreError."""
    mirror = open_mirror(url)
    root = mirror.root
    folder = f"{root.path}/{experiment}"
    files = {i["name"].rpartition("/")[2]: i for i in root.children(f"{folder}/campaigns") if i["name"].endswith(".json")}  # fmt: skip
    for name in sorted(files, reverse=True) if campaign_id is None else [f"{campaign_id}.json"]:
        if name not in files:
            return
        try:
            (path,) = mirror.fetch([files[name]])
        except FileNotFoundError as error:
            raise unreachable(root, error) from None
        if campaign_id is None and not finished_too and b'"state": "open"' not in path.read_bytes():
            continue
        folders = [info["name"] for info in root.children(folder) if info["type"] == "directory"]
        fetch_runs(mirror, campaign_runs(root, folders, name.removesuffix(".json")))
        return
