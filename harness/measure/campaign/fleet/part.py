"""A box's part of a campaign: some cells of one repetition, each run as everywhere, and handed over before the next begins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from harness import __version__
from harness.base import clock
from harness.base.errors import HarnessError
from harness.config.experiment import parse_experiment
from harness.measure.campaign import file, lock, order
from harness.measure.campaign.campaign import Campaign, serving
from harness.measure.campaign.claim import Claim
from harness.measure.campaign.course import Course
from harness.measure.campaign.fleet.parcel import pack
from harness.measure.campaign.fleet.work import Work
from harness.measure.campaign.forecast import Pace
from harness.measure.run import Run, Stop
from harness.measure.targets import Target
from harness.records import DriveProgress


class Voice:
    """What a box's process says, a line of JSON each, and hears: `work`, then a line for each run that was fetched. The end of what it hears
    is the end of whoever started it: the process then ends as on SIGTERM. A Display."""

    def __init__(self, heard: TextIO, said: TextIO) -> None:
        self._heard, self._said = heard, said
        self._lock, self._go, self._alone = threading.Lock(), threading.Semaphore(0), False

    def work(self) -> Work:
        """What there is to do; from here on the rest is listened to."""
        work = Work(**json.loads(self._heard.readline()))
        threading.Thread(target=self._listen, daemon=True).start()
        return work

    def _listen(self) -> None:
        for _ in self._heard:
            self._go.release()
        self._alone = True
        os.kill(os.getpid(), signal.SIGTERM)
        self._go.release()

    def tell(self, kind: str, value: Any) -> None:
        with self._lock:
            self._said.write(json.dumps({kind: value}) + "\n")
            self._said.flush()

    def hand_over(self, path: Path, error: HarnessError | None) -> None:
        """Say that a run is packed, and wait until it was fetched, so that nothing is sent beside a measurement."""
        told = None if error is None else [type(error).__name__, error.what, error.value, error.advice]
        self.tell("run", {"path": str(path), "bytes": path.stat().st_size, "error": told})
        if not self._alone:
            self._go.acquire()

    def say(self, text: str) -> None:
        self.tell("say", text)

    def phase(self, name: str) -> None:
        self.tell("phase", name)

    def cell(self, index: int, total: int, name: str) -> None:  # noqa: ARG002 - the whole campaign's number is elsewhere
        self.tell("cell", name)

    def progress(self, progress: DriveProgress) -> None:
        self.tell("progress", asdict(progress))


@contextmanager
def begin_part(work: Work, voice: Voice) -> Iterator[Part]:
    """The part of a campaign, this machine locked for it, in a folder that goes with it. Raises ConfigError, TargetError, StoreError."""
    if Path(work.folder).is_dir():
        os.chdir(work.folder)
    spec = parse_experiment(dict(work.spec), "the campaign over a fleet")
    indices = {name: index for index, name in work.cells}
    steps = [replace(step, index=indices[step.name]) for step in order.from_names(spec, list(indices))]
    config = spec.public()
    campaign = file.Campaign(
        file.CAMPAIGN_SCHEMA_VERSION, work.campaign_id, spec.experiment, work.created_utc, __version__,
        config, file.digest(config), (), tuple(indices), file.OPEN,
    )  # fmt: skip
    used = {step.cell.target for step in steps}
    names = lock.lock_names([target for target in spec.targets if target.name in used])
    out = Path(tempfile.mkdtemp(prefix="harness-box-"))
    try:
        with lock.hold(names, work.campaign_id, wait=work.wait_lock, say=voice.say):
            course = Course(spec, out, voice, steps, {}, Claim(campaign, frozenset()), Pace(out), clock.monotonic_ns())
            with serving(course, f"{work.campaign_id}_{work.box['name']}", {"box": dict(work.box)}) as campaign_here:
                yield Part(campaign_here, course, voice)
    finally:
        shutil.rmtree(out, ignore_errors=True)


class Part:
    """The steps of a `Campaign`, each handed over when it has ended or failed."""

    def __init__(self, campaign: Campaign, course: Course, voice: Voice) -> None:
        self._campaign, self._course, self._voice = campaign, course, voice
        self.ran = course.ran

    def cells(self, stop: Stop) -> Iterator[Run]:
        """All of them, in their order, until it is stopped."""
        for step in self._course.todo:
            if stop.asked:
                break
            self._voice.cell(step.index, len(self._course.steps), step.name)
            yield self._campaign.run_of(step, stop)
        self.ran.stopped = bool(stop.asked)

    def serve(self, run: Run) -> tuple[Target, dict[str, Any]]:
        """As a campaign's. Raises TargetError, ConfigError."""
        return self._campaign.serve(run)

    def ended(self, run: Run) -> None:
        """The run is stored, and goes to where the campaign is."""
        self._campaign.ended(run)
        self._hand_over(run, None)

    def failed(self, run: Run, cause: Exception) -> None:
        """As a campaign's; what was recorded of it goes to where the campaign is. Raises StoreError."""
        self._campaign.failed(run, cause)
        self._hand_over(run, self.ran.failures[-1][1])

    def _hand_over(self, run: Run, error: HarnessError | None) -> None:
        path = pack(run.run_dir, self._course.out)
        with run.stop.while_driving():  # a signal must not end the process before its run is safe
            self._voice.hand_over(path, error)
        path.unlink(missing_ok=True)
        shutil.rmtree(run.run_dir, ignore_errors=True)
