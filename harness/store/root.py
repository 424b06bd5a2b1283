"""A directory of results wherever it is: on this machine's disk, or in object storage through fsspec."""

from __future__ import annotations

import glob
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from harness.base.errors import ConfigError, StoreError
from harness.base.files import whole_file

# Here an object is there whole or not at all, and folders are only names: to make one may make a bucket.
_OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "memory"})
_S3 = frozenset({"s3", "s3a"})
_EXTRAS = {"s3": "pip install 'vllm-cost-harness[s3]'", "gs": "pip install gcsfs", "abfs": "pip install adlfs"}


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
        return self.url(self.path)

    @property
    def is_s3(self) -> bool:
        return self.prefix.removesuffix("://") in _S3

    def url(self, path: str) -> str:
        """A path of the filesystem as people write it."""
        return f"{self.prefix}{path.lstrip('/')}" if self.prefix else path

    def urls(self, pattern: str) -> list[str]:
        """Files under the root that match, sorted; only `pattern` is one. Raises StoreError."""
        try:
            self.fs.invalidate_cache()  # others write there too
            paths = self.fs.glob(f"{glob.escape(self.path)}/{pattern}")
        except Exception as error:  # each filesystem raises its own
            raise unreachable(self, error) from None
        return sorted(self.url(str(path)) for path in paths)

    def files(self, folder: str) -> list[dict[str, Any]]:
        """What stands in a folder and below it, with name and size, sorted by name; nothing where it is not there. Raises StoreError."""
        try:
            self.fs.invalidate_cache()
            found = self.fs.find(folder, detail=True)
        except FileNotFoundError as error:
            return self._nothing(folder, error)
        except Exception as error:
            raise unreachable(self, error, folder) from None
        return [found[name] for name in sorted(found)]

    def children(self, folder: str) -> list[dict[str, Any]]:
        """What stands right in a folder, with name and type; nothing where it is not there. Raises StoreError."""
        try:
            self.fs.invalidate_cache()
            return sorted(self.fs.ls(folder, detail=True), key=lambda info: str(info["name"]))
        except (FileNotFoundError, NotADirectoryError) as error:
            return self._nothing(folder, error)
        except Exception as error:
            raise unreachable(self, error, folder) from None

    def _nothing(self, folder: str, error: Exception) -> list[dict[str, Any]]:
        """What stands in a folder that is not there. Raises StoreError where the bucket is not."""
        if "bucket does not exist" in str(error):
            raise unreachable(self, error, folder) from None
        return []

    @contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        """A binary file that is under `path` whole after the block, or not at all. Raises StoreError."""
        try:
            if self.local:
                self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                with whole_file(Path(path)) as part, part.open("wb") as file:
                    yield file
                return
            buffer = io.BytesIO()  # a file of the filesystem's own would be there half, if the block ended by an error
            yield buffer
            self.put(path, buffer.getvalue())
        except Exception as error:
            raise unreachable(self, error, path) from error

    def put(self, path: str, content: bytes) -> None:
        """Write a file whole. Raises the filesystem's own error."""
        if self.local:
            with self.writing(path) as file:
                file.write(content)
        elif self.prefix.removesuffix("://") in _OBJECTS:
            self.fs.pipe_file(path, content)
        else:
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            part = f"{path}.tmp"
            try:
                self.fs.pipe_file(part, content)
                self.fs.mv(part, path)
            except BaseException:
                with suppress(Exception):
                    self.fs.rm(part)
                raise


def unreachable(root: Root, error: Exception, path: str | None = None) -> StoreError:
    """The error of a filesystem's own, with what to do about it; a StoreError is left as it is."""
    if isinstance(error, StoreError):
        return error
    kind, text = type(error).__name__, str(error).splitlines()[0] if str(error) else ""
    low = f"{kind} {text}".lower()
    if "expired" in low:
        advice = "the credentials have expired: renew them"
    elif "credential" in low:
        advice = "give credentials: AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an instance's role"
    elif isinstance(error, PermissionError):
        advice = "these credentials need to list, read, write and delete there (s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject)"
    elif isinstance(error, FileNotFoundError):
        advice = "is the bucket's name right? The harness makes no bucket"
    elif "connect" in low or "timeout" in low:
        advice = "nothing answers there: check AWS_ENDPOINT_URL, AWS_REGION and the network"
    else:
        advice = "check the path, and access to it"
    where = root.shown if path is None else root.url(path)
    return StoreError("results cannot be read or written", where, f"{kind}: {text}; {advice}")


def open_root(where: str | Path) -> Root:
    """A results directory; it need not exist. Raises ConfigError: a URL whose filesystem is not installed."""
    text = str(where)
    scheme = text.partition("://")[0] if "://" in text else ""
    try:
        fs, path = fsspec.core.url_to_fs(text, **_options(scheme))
    except (ImportError, ValueError) as error:
        install = _EXTRAS.get(scheme, "install the filesystem's package beside the harness")
        raise ConfigError("object storage that is not available here", text, f"{error}: {install}") from None
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    local = protocol in {"file", "local"}
    return Root(fs, path.rstrip("/"), "" if local else f"{protocol}://")


def _options(scheme: str) -> dict[str, Any]:
    """s3fs asks five times what botocore has asked five times: an endpoint that is not there would be found after minutes."""
    return {"config_kwargs": {"retries": {"max_attempts": 2, "mode": "standard"}}} if scheme in _S3 else {}
