"""campaigns/<campaign_id>.json: what a campaign was meant to be, written before its first server starts.

Which cells are done does not stand here: the manifests of the run directories alone say so (`stock.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness import __version__
from harness.base import clock, redaction
from harness.base.documents import parse_json
from harness.base.errors import ConfigError, StoreError
from harness.base.files import write_whole
from harness.config.experiment import ExperimentSpec
from harness.store.typed import refuse_wrong_types

CAMPAIGN_SCHEMA_VERSION = 1
FOLDER = "campaigns"
OPEN, FINISHED = "open", "finished"
# What may differ between a campaign and its resumption: it changes nothing about what a cell is.
_FREE_KEYS = frozenset({"description", "max_hours", "max_usd", "min_free_gib", "notify", "spread_hours", "fleet"})


@dataclass(frozen=True, slots=True)
class Campaign:
    """`order`: names of the cells in the order they run. `config`: the resolved experiment. `dropped_repetitions`: left
    out because of max_hours. `attempts`: one mapping an invocation (started_utc, pid, resumed, nonce)."""

    schema_version: int
    campaign_id: str
    experiment: str
    created_utc: str
    harness_version: str
    config: Mapping[str, Any]
    config_sha256: str
    only: tuple[str, ...]
    order: tuple[str, ...]
    state: str  # open | finished
    dropped_repetitions: tuple[int, ...] = ()
    attempts: tuple[Mapping[str, Any], ...] = ()
    summary: Mapping[str, Any] | None = None


def digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the keys of a resolved config that say what is measured."""
    kept = {key: value for key, value in config.items() if key not in _FREE_KEYS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def path_of(out: Path, campaign_id: str) -> Path:
    return out / FOLDER / f"{campaign_id}.json"


def create(
    out: Path,
    spec: ExperimentSpec,
    only: tuple[str, ...],
    order: tuple[str, ...],
    take: Callable[[Path], bool] | None = None,
) -> Campaign:
    """Write the file of a new campaign under an id that no other has, here and where its results go (`take`). Raises StoreError."""
    config = spec.public()
    now = clock.utc_now().isoformat(timespec="seconds")
    stamp = clock.utc_stamp()
    made = Campaign(
        CAMPAIGN_SCHEMA_VERSION, stamp, spec.experiment, now, __version__, config, digest(config), only, order, OPEN
    )
    made = with_attempt(made)
    try:
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):  # two campaigns may begin in one second
            made = replace(made, campaign_id=stamp if number == 1 else f"{stamp}-{number}")
            with suppress(FileExistsError):
                write_whole(path_of(out, made.campaign_id), _text(made), new=True)
                if take is None or _is_taken(path_of(out, made.campaign_id), take):
                    return made
    except OSError as error:
        raise _unwritable(out / FOLDER, error) from error
    raise StoreError("no free campaign id", out / FOLDER, "look at what fills that directory")


def _is_taken(path: Path, take: Callable[[Path], bool]) -> bool:
    """Whether the id is ours elsewhere too; a file of an id that is not goes."""
    ours = False
    try:
        ours = take(path)
    finally:
        if not ours:
            path.unlink()
    return ours


def write(out: Path, campaign: Campaign) -> None:
    """Replace the campaign's file in one step. Raises StoreError."""
    try:
        write_whole(path_of(out, campaign.campaign_id), _text(campaign))
    except OSError as error:
        raise _unwritable(path_of(out, campaign.campaign_id), error) from error


def lock_path(out: Path, campaign_id: str) -> Path:
    return out / FOLDER / f"{campaign_id}.lock"


def with_attempt(campaign: Campaign) -> Campaign:
    """The campaign with this invocation added."""
    attempt = {
        "started_utc": clock.utc_now().isoformat(timespec="seconds"),
        "pid": os.getpid(),
        "resumed": bool(campaign.attempts),
        "nonce": secrets.token_hex(8),  # of two machines that begin in one second, in containers too, each has its own
    }
    return replace(campaign, attempts=(*campaign.attempts, attempt))


def _text(campaign: Campaign) -> str:
    return json.dumps(redaction.data(asdict(campaign)), indent=1, allow_nan=False) + "\n"


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        "campaign file cannot be written", path, f"{error.strerror}; free disk space or use another --out"
    )


def read(path: Path) -> Campaign:
    """A campaign's file. Raises StoreError: missing, damaged, written by a newer harness."""
    try:
        data = parse_json(path.read_bytes())
        if int(data["schema_version"]) > CAMPAIGN_SCHEMA_VERSION:
            advice = f"this harness reads up to version {CAMPAIGN_SCHEMA_VERSION}: update it"
            raise StoreError("campaign was written by a newer harness", f"{path}: {data['schema_version']}", advice)
        known: dict[str, Any] = {f.name: data[f.name] for f in fields(Campaign) if f.name in data}
        known["config"] = redaction.data(known["config"])
        known |= {
            key: tuple(known[key]) for key in ("only", "order", "dropped_repetitions", "attempts") if key in known
        }
        campaign = Campaign(**known)
        refuse_wrong_types(Campaign, asdict(campaign), str(path))
        return campaign
    except FileNotFoundError:
        raise StoreError("no such campaign", path, "look into the experiment's campaigns directory") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise StoreError(
            "campaign file cannot be read", path, f"{type(error).__name__}: {error}; is it whole?"
        ) from None


def find(out: Path, wanted: str | None, *, finished_too: bool = False) -> Campaign:
    """The campaign with the id `wanted`, or the newest one that is not finished; with `finished_too` the newest of all.

    Raises ConfigError: there is none, or it is finished.
    """
    if wanted is not None:
        found = read(path_of(out, wanted))
        if found.state == FINISHED and not finished_too:
            advice = "start a new one without --resume; --resume --failed runs its failed cells again"
            raise ConfigError("the campaign is finished", wanted, advice)
        return found
    for path in sorted((out / FOLDER).glob("*.json"), key=lambda path: path.stem, reverse=True):
        campaign = read(path)
        if campaign.state != FINISHED or finished_too:
            return campaign
    raise ConfigError("no unfinished campaign to resume", out, "start a new one without --resume")


def refuse_other(campaign: Campaign, spec: ExperimentSpec, only: tuple[str, ...]) -> None:
    """Raises ConfigError, naming the first key that differs, unless `spec` and `only` mean what the campaign meant."""
    config = spec.public()
    advice = "resume with the config and words that it was started with, or start a new campaign without --resume"
    if digest(config) != campaign.config_sha256:
        mine = {k: v for k, v in config.items() if k not in _FREE_KEYS}
        theirs = {k: v for k, v in campaign.config.items() if k not in _FREE_KEYS}
        key, then, now = next(_differences("", theirs, mine), ("(order of keys)", None, None))
        value = f"{key} was {then!r}, is {now!r}"[:300]
        raise ConfigError(f"campaign {campaign.campaign_id} has another config", value, advice)
    if only and only != campaign.only:
        value = f"--only was {' '.join(campaign.only) or 'not given'}, is {' '.join(only)}"
        raise ConfigError(f"campaign {campaign.campaign_id} has other cells", value, advice)


def _differences(at: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every place where two JSON values differ: (key, then, now)."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in (*then, *(k for k in now if k not in then)):
            yield from _differences(f"{at}.{key}" if at else str(key), then.get(key), now.get(key))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, (a, b) in enumerate(zip(then, now, strict=True)):
            yield from _differences(f"{at}[{index}]", a, b)
    elif then != now:
        yield at, then, now
