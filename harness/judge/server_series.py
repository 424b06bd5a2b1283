"""Names of a vLLM server's series by what they mean and by version: dated data in configs/server_series/vllm.yaml."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from harness.base.documents import load_yaml
from harness.base.files import data_dir

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A name on the page from version `since` to before `until` (None: still). `unit`: what one of it is (tokens, blocks ..)."""

    name: str
    since: Version
    until: Version | None
    unit: str
    source: str

    def holds(self, version: Version) -> bool:
        return self.since <= version and (self.until is None or version < self.until)


@cache
def series() -> dict[str, tuple[Series, ...]]:
    """Meaning -> its names, newest first."""
    found = load_yaml(data_dir("configs") / "server_series" / "vllm.yaml")
    return {
        meaning: tuple(
            Series(
                one["name"],
                version_of(one["since"]) or (),
                version_of(one["until"]) if "until" in one else None,
                one["unit"],
                one["source"],
            )
            for one in names
        )
        for meaning, names in found.items()
    }


def version_of(text: str | None) -> Version | None:
    """(0, 8, 5) of `0.8.5.post1` or `v0.8.5`; None where it does not begin with numbers, and for a build of no release."""
    found = re.match(r"v?(\d+(?:\.\d+)+)", text or "")
    if found is None or (text or "").startswith("0.1.dev"):
        return None
    return tuple(int(part) for part in found.group(1).split("."))[:3]


def on_page(meaning: str, names: Collection[str], version: str | None = None) -> Series | None:
    """The series of that meaning among `names`, newest first; of several units under one name that of `version`, where it is told."""
    present = [one for one in series()[meaning] if one.name in names]
    known = version_of(version)
    of_version = [one for one in present if known is not None and one.holds(known)]
    return next(iter(of_version or present), None)


def expected(meaning: str, version: str | None) -> Series | None:
    """The series that a server of that version has; None where the version is not told, or had none."""
    known = version_of(version)
    return next((one for one in series()[meaning] if known is not None and one.holds(known)), None)
