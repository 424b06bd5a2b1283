"""Which cells an invocation has to run, and that nobody else runs them or uses their GPUs meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.base.errors import ConfigError, StoreError
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign import file, lock, order, stock
from harness.measure.campaign.intent import NEWEST, Intent
from harness.measure.campaign.order import Step


@dataclass(frozen=True, slots=True)
class Claim:
    """A campaign that is ours while its context lasts; `done` holds the names of cells that have a finished run."""

    campaign: file.Campaign
    done: frozenset[str]


def wanted(spec: ExperimentSpec, out: Path, intent: Intent) -> tuple[file.Campaign | None, tuple[Step, ...]]:
    """The campaign to resume, if any, and all its cells in order. Reads only. Raises ConfigError and StoreError."""
    if intent.resume is None:
        return None, order.ordered(spec, intent.only)
    found = file.find(out, None if intent.resume == NEWEST else intent.resume, finished_too=intent.failed)
    file.refuse_other(found, spec, intent.only)
    if found.state == file.FINISHED and not _has_failed(out, found):
        raise ConfigError(
            "no failed cell to run again",
            f"campaign {found.campaign_id}",
            "name another: --resume CAMPAIGN_ID --failed",
        )
    return found, order.from_names(spec, found.order)


def _has_failed(out: Path, campaign: file.Campaign) -> bool:
    paths = (stock.run_dir(out, campaign.campaign_id, name) for name in campaign.order)
    return any(path.is_dir() and stock.failure(path) is not None for path in paths)


@contextmanager
def claim(
    spec: ExperimentSpec,
    out: Path,
    intent: Intent,
    found: file.Campaign | None,
    steps: Sequence[Step],
    say: Callable[[str], None],
) -> Iterator[Claim]:
    """Take the locks, then write the campaign's file, or for `found` see what is done and put broken-off attempts aside.

    Raises TargetError (a lock is held), StoreError, and ConfigError where `found` was finished meanwhile.
    """
    name = found.campaign_id if found else f"{spec.experiment} (starting)"
    with ExitStack() as held:
        names = lock.lock_names(spec.targets) if spec.fleet is None else []  # its boxes lock themselves
        rename = held.enter_context(lock.hold(names, name, wait=intent.wait_lock, say=say))
        if found is None:
            campaign = file.create(out, spec, intent.only, tuple(step.name for step in steps), intent.take)
            rename(campaign.campaign_id)
            held.enter_context(lock.hold_file(file.lock_path(out, campaign.campaign_id), campaign.campaign_id))
            yield Claim(campaign, frozenset())
            return
        held.enter_context(lock.hold_file(file.lock_path(out, found.campaign_id), found.campaign_id))
        path = file.path_of(out, found.campaign_id)
        if intent.take is not None and not intent.take(path):
            advice = "resume it where it was begun, or send it to another prefix"
            raise StoreError("another campaign has this id where the results go", found.campaign_id, advice)
        campaign = file.with_attempt(file.read(path))
        if campaign.state == file.FINISHED and not intent.failed:
            raise ConfigError("the campaign is finished", found.campaign_id, "start a new one without --resume")
        for part in (out / file.FOLDER).glob(f"{found.campaign_id}.json.*.tmp"):  # of a write that was killed
            part.unlink(missing_ok=True)
        if intent.failed:
            campaign = replace(campaign, state=file.OPEN, summary=None)
        file.write(out, campaign)
        have = stock.take_stock(out, found.campaign_id, campaign.order, again=intent.failed)
        for moved in have.moved:
            say(f"a broken-off{' or failed' if intent.failed else ''} attempt is kept aside, in no report: {moved}")
        yield Claim(campaign, have.done)


def release(out: Path, campaign: file.Campaign) -> None:
    """Remove the lock file of a campaign that is finished: nobody resumes it."""
    with contextlib.suppress(OSError):
        file.lock_path(out, campaign.campaign_id).unlink()
