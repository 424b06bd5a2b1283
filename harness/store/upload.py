"""Runs of this machine put into object storage: files first and looked at again there, manifest.json last, so a run without one is not there.

Who writes a campaign holds its lock object, `<experiment>/campaigns/<campaign_id>.lock`, made by a conditional put; `<campaign_id>.json`
says for ever whose the id is. So two campaigns under one prefix never write into each other's runs, and one that begins in the same
second gets another id. Where the store has no conditional put (`exclusive` is False then) that holds but for the same instant.
"""

from __future__ import annotations

import hashlib
import json
import platform
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.base import clock
from harness.base.errors import StoreError
from harness.store.elsewhere import AT_ONCE, RECORD, note, read_record, trim, write_record
from harness.store.manifest import NAME, goes_on, read_manifest
from harness.store.parts import RESERVE, SCRATCH
from harness.store.root import Root, open_root, unreachable

_PART_BYTES = 16 << 20  # of a large file on S3; memory of an upload is some of these
_PROBE = b"written before anything is measured, to see that it can be; it may be deleted\n"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Upload:
    """To one URL, from the folder `here` that has the same layout. As a context manager it lets its locks go at the end.

    `pending`: runs that could not be put, and why. Every method but `put_run` and `conclude` raises StoreError.
    """

    def __init__(self, url: str, here: Path, say: Callable[[str], None]) -> None:
        self.url, self.here = url.rstrip("/"), here
        self.root: Root = open_root(url)
        self.exclusive = True
        self.pending: dict[Path, str] = {}
        self.put_bytes = 0
        self._say, self._etag_is_md5 = say, False
        self._held: set[str] = set()
        self._holder = hashlib.sha256(f"{platform.node()} {uuid.getnode()} {here.resolve()}".encode()).hexdigest()[:16]

    # ------------------------------------------------------------ before anything is sent

    def probe(self) -> None:
        """Write an object, make it again where the store must refuse that, and delete it. Raises StoreError: no such bucket, no access."""
        path = f"{self.root.path}/.probe-{self._holder}-{uuid.uuid4().hex[:8]}"
        try:
            self.root.put(path, _PROBE)
            try:
                info = self.root.fs.info(path)
                self._etag_is_md5 = str(info.get("ETag", "")).strip('"') == _md5(_PROBE)
                self.exclusive = not self._create(path, _PROBE)
            finally:
                self.root.fs.rm_file(path)
        except Exception as error:
            raise unreachable(self.root, error) from None
        if not self.exclusive:
            self._say(f"{self.url}: no conditional put there: campaigns that begin in the same instant may meet")

    def _create(self, path: str, content: bytes) -> bool:
        """Write a file that is not there; False where it is."""
        try:
            if not self.exclusive and self.root.fs.exists(path):
                return False
            if self.root.local:
                self.root.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.root.fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True

    # ------------------------------------------------------------ whose a campaign is

    def take(self, campaign_file: Path) -> bool:
        """Hold the campaign of `<experiment>/campaigns/<id>.json`, and put its file; False where another machine's has the id. Raises
        StoreError too where it is held by somebody else now."""
        there = self._there(campaign_file)
        try:
            content = campaign_file.read_bytes()
            earlier = self._read(there)
            if earlier is not None and _first_attempt(earlier) != _first_attempt(content):
                return False
            if not self._hold(campaign_file.parent.parent, campaign_file.stem, wait=earlier is not None):
                return False
            now = self._read(there)
            if now is not None and _first_attempt(now) != _first_attempt(content):  # begun and ended since
                self._let_go(f"{there.removesuffix('.json')}.lock")
                return False
            self.root.put(there, content)
        except Exception as error:
            raise unreachable(self.root, error, there) from None
        return True

    def refused(self, campaign_file: Path) -> str | None:
        """Why the campaign may not be written, None where it is held now. Raises nothing."""
        try:
            return None if self.take(campaign_file) else "another campaign has this id there"
        except StoreError as error:
            return f"{error.what}: {error.value}: {error.advice}"

    def _hold(self, experiment: Path, campaign_id: str, *, wait: bool) -> bool:
        """The campaign's lock object is ours; False where it is another's, StoreError where `wait` says that it is the same campaign."""
        path = f"{self._there(experiment)}/campaigns/{campaign_id}.lock"
        if path in self._held:
            return True
        mine = {"holder": self._holder, "since_utc": clock.utc_now().isoformat(timespec="seconds")}
        if not self._create(path, json.dumps(mine).encode()):
            theirs = _json(self._read(path) or b"{}")
            if theirs.get("holder") != self._holder:
                if not wait:
                    return False
                advice = f"if nobody does any more, delete {self.root.url(path)}"
                value = f"{campaign_id}, since {theirs.get('since_utc', 'an unknown time')}"
                raise StoreError("another machine or folder writes this campaign", value, advice)
        self._held.add(path)
        return True

    def _read(self, path: str) -> bytes | None:
        try:
            content: bytes = self.root.fs.cat_file(path)
        except FileNotFoundError:
            return None
        return content

    def release(self) -> None:
        """Let every campaign go. Never raises: what cannot be deleted now is ours again the next time."""
        for path in list(self._held):
            self._let_go(path)

    def _let_go(self, path: str) -> None:
        with suppress(Exception):
            self.root.fs.rm_file(path)
        self._held.discard(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    # ------------------------------------------------------------ runs

    def put_run(self, run_dir: Path) -> bool:
        """Put a run that has ended, if it is not there whole; False if that failed, which is said: the run stays here, in `pending`."""
        try:
            self._put_run(run_dir)
        except Exception as cause:
            error = unreachable(self.root, cause)
            self.pending[run_dir] = f"{error.what}: {error.value}: {error.advice}"
            self._say(f"not uploaded, kept in {run_dir}: {error.advice}; later: harness upload {self.here} {self.url}")
            return False
        self.pending.pop(run_dir, None)
        return True

    def put_runs(self, run_dirs: Sequence[Path]) -> None:
        """`put_run` of each."""
        for run_dir in run_dirs:
            self.put_run(run_dir)

    def is_there(self, run_dir: Path) -> bool:
        """Whether the run is there whole: it has this very manifest. Raises StoreError."""
        try:
            return self._read(f"{self._there(run_dir)}/{NAME}") == (run_dir / NAME).read_bytes()
        except Exception as error:
            raise unreachable(self.root, error) from None

    def _put_run(self, run_dir: Path) -> None:
        manifest = read_manifest(run_dir)
        if goes_on(manifest) or manifest.state == "running":
            raise StoreError("run is going on, or was broken off", run_dir, "harness run --resume runs it again")
        if self.is_there(run_dir):
            return
        there, files = self._there(run_dir), list(_files_of(run_dir))
        if not self._hold(run_dir.parent, run_dir.name.partition("_")[0], wait=True):
            raise StoreError("another campaign has this id", run_dir.name, "its runs stay in the store as they are")
        listed = {str(info["name"]): info for info in self.root.files(there)}
        if f"{there}/{NAME}" in listed:
            self._replace(run_dir, there)  # the cell ran again
        keep = {self._there(path) for path in files}
        for name in [name for name in listed if name not in keep]:
            self.root.fs.rm_file(name)
        todo = [path for path in files if path.name != NAME and not self._is_stored(path, listed)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._put_file, todo))
        listed = {str(info["name"]): info for info in self.root.files(there)}
        if damaged := [path for path in files if path.name != NAME and not self._agrees(path, listed)]:
            raise StoreError("file is not there as it is here", damaged[0], "the store did not keep it; upload again")
        for path in sorted((p for p in files if p.name == NAME), key=lambda p: -len(p.parts)):
            self._put_file(path)
            listed[self._there(path)] = self.root.fs.info(self._there(path))
        self._note(files, listed)

    def _replace(self, run_dir: Path, there: str) -> None:
        """Take back a run of this name, so that it is not there while its files change. Raises StoreError: it is another campaign's."""
        campaign = run_dir.parent / "campaigns" / f"{run_dir.name.partition('_')[0]}.json"
        theirs = self._read(f"{there}/{NAME}") or b"{}"
        ours_there = self._read(self._there(campaign))
        if (
            ours_there is None
            or not campaign.is_file()
            or _first_attempt(ours_there) != _first_attempt(campaign.read_bytes())
        ):
            who = f"{run_dir.name}, of {_json(theirs).get('created_utc')}"
            raise StoreError(
                "another run of this name is there", who, "it was left as it is; upload under another prefix"
            )
        self.root.fs.rm_file(f"{there}/{NAME}")

    def _there(self, path: Path) -> str:
        return f"{self.root.path}/{path.relative_to(self.here).as_posix()}".removesuffix("/.")

    def _put_file(self, path: Path) -> None:
        size = path.stat().st_size
        if self.root.local or size <= _PART_BYTES:
            self.root.put(self._there(path), path.read_bytes())
        else:
            parts = {"chunksize": _PART_BYTES, "max_concurrency": 2} if self.root.is_s3 else {}
            self.root.fs.put_file(str(path), self._there(path), **parts)
        self.put_bytes += size

    def _agrees(self, path: Path, listed: dict[str, dict[str, Any]]) -> bool:
        """The same size there, and the same bytes where the store's ETags are MD5s and the file went up in one piece."""
        info = listed.get(self._there(path))
        if info is None or int(info["size"]) != path.stat().st_size:
            return False
        etag = str(info.get("ETag", "")).strip('"')
        return not self._etag_is_md5 or "-" in etag or etag == _md5(path.read_bytes())

    def _is_stored(self, path: Path, listed: dict[str, dict[str, Any]]) -> bool:
        """Put by an upload that was broken off: only where its bytes can be told."""
        return self._etag_is_md5 and "-" not in str(listed.get(self._there(path), {}).get("ETag", "-")) and self._agrees(path, listed)  # fmt: skip

    def _note(self, files: Sequence[Path], listed: dict[str, dict[str, Any]]) -> None:
        """In the mirror's record: reading it from there fetches nothing."""
        for folder in {path.parent for path in files}:
            record = read_record(folder)
            for path in files:
                if path.parent == folder and path.suffix in {".parquet", ".json"}:
                    note(record, path, listed[self._there(path)])
            write_record(folder, record)

    # ------------------------------------------------------------ what stands beside the runs

    def again(self) -> bool:
        """What is pending once more; whether nothing is."""
        self.put_runs(list(self.pending))
        return not self.pending

    def conclude(self, experiment: Path, campaign_id: str, *, report: bool = True) -> None:
        """The report, unless it is another campaign's, and the campaign's file last. What fails is said, and is pending."""
        campaign, derived = experiment / "campaigns" / f"{campaign_id}.json", experiment / "derived"
        try:
            for path in sorted(derived.glob("*")) if report and derived.is_dir() else []:
                target = f"{self._there(derived)}/{campaign_id}/{path.name}"
                self.root.put(target, path.read_bytes())
            self.root.put(self._there(campaign), campaign.read_bytes())
        except Exception as cause:
            error = unreachable(self.root, cause)
            self.pending[campaign] = f"{error.what}: {error.value}: {error.advice}"
            self._say(f"report and campaign file not uploaded: {error.advice}")
        else:
            self.pending.pop(campaign, None)
            trim(path.parent for path in experiment.glob(f"{campaign_id}_*/{NAME}"))


def _files_of(run_dir: Path) -> Iterator[Path]:
    """A run's files without what is unfinished or this machine's own."""
    for path in sorted(run_dir.rglob("*")):
        inside = path.relative_to(run_dir).parts
        if path.is_file() and path.suffix != ".tmp" and path.name not in {RECORD, RESERVE} and SCRATCH not in inside:
            yield path


def _json(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _first_attempt(content: bytes) -> Any:
    """What tells a campaign from another of its id: how it was begun (its nonce), and its config."""
    data = _json(content)
    return (data.get("attempts") or [None])[0], data.get("config_sha256")
