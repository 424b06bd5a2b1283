"""A directory of results wherever it is: on this machine's disk, or in object storage through fsspec."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from harness.base.errors import ConfigError, StoreError
from harness.base.files import whole_file


@dataclass(frozen=True, slots=True)
class Root:
    """A directory of results on its filesystem; `prefix` turns a path of that filesystem into what DuckDB opens."""

    fs: Any
    path: str
    prefix: str

    @property
    def local(self) -> bool:
        return not self.prefix

    @property
    def shown(self) -> str:
        return f"{self.prefix}{self.path.lstrip('/')}" if self.prefix else self.path

    def urls(self, pattern: str) -> list[str]:
        """Files under the root that match, sorted; only `pattern` is one. Raises StoreError."""
        try:
            paths = self.fs.glob(f"{glob.escape(self.path)}/{pattern}")
        except Exception as error:  # each filesystem raises its own
            raise unreachable(self, error) from None
        return sorted(f"{self.prefix}{str(path).lstrip('/')}" if self.prefix else str(path) for path in paths)

    @contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        """A binary file that is under `path` whole after the block, or not at all. Raises StoreError."""
        try:
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            place = whole_file(Path(path)) if self.local else self._whole_elsewhere(path)
            with place as part, self.fs.open(str(part), "wb") as file:
                yield file
        except Exception as error:
            raise unreachable(self, error) from error

    @contextmanager
    def _whole_elsewhere(self, path: str) -> Iterator[str]:
        """`files.whole_file` of a filesystem that is not this machine's."""
        part = f"{path}.tmp"
        try:
            yield part
            self.fs.mv(part, path)
        except BaseException:
            with suppress(Exception):
                self.fs.rm(part)
            raise


def unreachable(root: Root, error: Exception) -> StoreError:
    """The error of a filesystem's own."""
    why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return StoreError("results cannot be read or written", root.shown, f"{why}; check the path, and access to it")


def open_root(where: str | Path) -> Root:
    """A results directory; it need not exist. Raises ConfigError: a URL whose filesystem is not installed."""
    text = str(where)
    try:
        fs, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        advice = f"{error}; install the filesystem's package (s3fs for s3://, gcsfs for gs://) beside the harness"
        raise ConfigError("object storage that is not available here", text, advice) from None
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    local = protocol in {"file", "local"}
    return Root(fs, path.rstrip("/"), "" if local else f"{protocol}://")
