"""A cell that failed is a run that says so: its plan, its server's log, and why."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.base import redaction
from harness.base.errors import HarnessError, InvalidRunError
from harness.base.files import is_no_room, no_room
from harness.measure.cell_plan import draw_plan
from harness.measure.observe.environment import collect
from harness.measure.provenance import begin_run, facts_of_none, one_line
from harness.measure.run import Run
from harness.records import RunState

TRACEBACK = "traceback.txt"


def record_traceback(run: Run, error: Exception) -> HarnessError:
    """What no line of ours foresaw: its traceback goes into the run directory, and it becomes an error of this one cell."""
    if is_no_room(error):
        return no_room("the run", Path(error.filename or run.run_dir), error)
    path = run.run_dir / TRACEBACK
    with suppress(OSError):
        path.write_text(redaction.text("".join(traceback.format_exception(error))))
    what = redaction.text(f"{type(error).__name__}: {error}")[:300]
    return InvalidRunError("the cell ended by an error that was not foreseen", what, f"report it, with {path}")


def record_failure(run: Run, log_path: Path | None, error: HarnessError, more: Mapping[str, Any] | None = None) -> None:
    """A run directory for a cell that could not begin. `more`: of its environment."""
    drawn = draw_plan(run.spec, run.cell, run.load_spec, salt=run.salt)
    with begin_run(run, drawn, facts_of_none(run.target_spec, error), log_path, more or {}) as writer:
        writer.update(environment=collect([], writer.manifest.environment))
        writer.finish(RunState.FAILED, one_line(error))
