"""What a server's own series say of a run: preemptions, KV cache, prefix hits, draft acceptance.

Their names by meaning and version are dated data in configs/server_series/vllm.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.base.documents import load_yaml
from harness.base.files import data_dir
from harness.records import Manifest, Window

if TYPE_CHECKING:
    from harness.judge.columns import FloatArray, IntArray

Version = tuple[int, ...]
_BLOCK_SIZE = "block_size"  # label of vllm:cache_config_info


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
    document = load_yaml(data_dir("configs") / "server_series" / "vllm.yaml")
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
        for meaning, names in document.items()
    }


def version_of(text: str | None) -> Version | None:
    """(0, 8, 5) of `0.8.5.post1` or `v0.8.5`; None where it does not begin with numbers, and for a build of no release."""
    release = re.match(r"v?(\d+(?:\.\d+)+)", text or "")
    if release is None or (text or "").startswith("0.1.dev"):
        return None
    return tuple(int(part) for part in release.group(1).split("."))[:3]


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


def names_in(server: Any | None) -> frozenset[str]:
    """Names of all series that were scraped."""
    return frozenset() if server is None or not len(server) else frozenset(server["metric"].unique())


def by_scrape(
    server: Any | None, meaning: str, version: str | None, edge: str | None = None, over: str = "sum"
) -> tuple[IntArray, FloatArray]:
    """Stamps (ns) and values of what a series means, at each scrape (`edge`: only those at it); over its labels (engines, replicas)
    their `over`: sum, mean or max. Empty where the page has no name for it."""
    known = on_page(meaning, names_in(server), version)
    if server is None or known is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    rows = server[server["metric"] == known.name]
    if edge is not None:
        rows = rows[rows["edge"] == edge]
    values = rows.groupby("stamp_ns", sort=True)["value"].agg(over)
    return values.index.to_numpy(dtype=np.int64), values.to_numpy(dtype=np.float64)


def rise(server: Any | None, meaning: str, version: str | None) -> float | None:
    """Rise of a counter between the scrapes at the edges of the measured phase, in the series' own unit; None where either is
    missing or it fell (a replica was restarted)."""
    _, start = by_scrape(server, meaning, version, "start")
    _, end = by_scrape(server, meaning, version, "end")
    if not len(start) or not len(end) or end[-1] < start[-1]:
        return None
    return float(end[-1] - start[-1])


def rise_tokens(server: Any | None, meaning: str, manifest: Manifest) -> float | None:
    """A rise in tokens; None too where the page counts blocks of a size that is not told, or may count either."""
    version = manifest.target.get("server_version")
    counter = on_page(meaning, names_in(server), version)
    risen = rise(server, meaning, version)
    if counter is None or risen is None:
        return None
    units = {one.unit for one in series()[meaning] if one.name == counter.name}
    if len(units) > 1 and expected(meaning, version) is None:
        return None
    if counter.unit != "blocks":
        return risen
    size = str((manifest.target.get("cache_config") or {}).get(_BLOCK_SIZE, ""))
    return risen * int(size) if size.isdigit() else None


def scalars(server: Any | None, manifest: Manifest, window: Window | None) -> dict[str, float | None]:
    """By the names of metrics.METRICS; None where the server does not tell."""
    version = manifest.target.get("server_version")

    def share(part: str, whole: str) -> float | None:
        some, all_ = rise(server, part, version), rise(server, whole, version)
        return some / all_ if some is not None and all_ else None

    stamps, used = by_scrape(server, "kv_cache_use", version, over="max")
    inside = used[(stamps > window.start_ns) & (stamps <= window.end_ns)] if window is not None else used[:0]
    return {
        "preemptions": rise(server, "preemptions", version),
        "kv_cache_use_max": float(inside.max()) if len(inside) else None,
        "prefix_hit_share": share("prefix_hits", "prefix_queries"),
        "draft_acceptance": share("accepted_tokens", "draft_tokens"),
    }


def timeline_series(
    server: Any | None, version: str | None, binned: Callable[[IntArray, FloatArray], tuple[float | None, ...]]
) -> Mapping[str, tuple[float | None, ...]]:
    """Series for the timeline: requests running and waiting (sums), KV cache in use (mean over engines), preemptions since the
    first scrape."""
    by_name = {}
    for name, meaning, over in (
        ("server_running", "running", "sum"),
        ("server_waiting", "waiting", "sum"),
        ("kv_cache_use", "kv_cache_use", "mean"),
        ("server_preemptions", "preemptions", "sum"),
    ):
        stamps, values = by_scrape(server, meaning, version, over=over)
        if len(stamps):
            by_name[name] = binned(stamps, values - values[0] if meaning == "preemptions" else values)
    return by_name


def missing(server: Any | None, version: str | None, *meanings: str) -> str:
    """Names that the page lacks, with what this server's version calls them: for a message."""
    lacking = [m for m in meanings if on_page(m, names_in(server), version) is None]
    words = []
    for meaning in lacking:
        one = expected(meaning, version)
        names = dict.fromkeys(s.name for s in series()[meaning])
        words.append(f"{one.name} (vLLM {version})" if one is not None else " or ".join(names))
    return ", ".join(words)


def prefix_cache_off(manifest: Manifest) -> bool:
    """Whether the server says that it has no prefix cache."""
    config = manifest.target.get("cache_config") or {}
    return str(config.get("enable_prefix_caching", "")).lower() == "false"
