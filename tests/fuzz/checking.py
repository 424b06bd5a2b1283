"""One command line on one broken input, in this process: what came of it, and whether that is a finding."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import click

from harness.base.errors import HarnessError
from harness.cli import cli

HANG_S = 10  # of the processor, so that a busy machine is no hang ..
STILL_S = 120  # .. and by the clock, for what waits


class HangError(BaseException):
    """The alarm rang; not an Exception, so that no handler of the program takes it."""


@dataclass(frozen=True, slots=True)
class Came:
    """`finding`: traceback, hang, nonsense, or None. `where`: file and line of a traceback, else what was said."""

    finding: str | None
    code: int
    said: str
    where: str = ""


def _rings(*_: object) -> None:
    raise HangError


def run(words: Sequence[str]) -> Came:
    """Runs `harness WORDS`. A HarnessError of at most three lines, or a refused word, is what should come of a broken input."""
    out, err = io.StringIO(), io.StringIO()
    before = [signal.signal(alarm, _rings) for alarm in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    signal.alarm(STILL_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(list(words), prog_name="harness", standalone_mode=False)
        found = Came(None, code if isinstance(code, int) else 0, out.getvalue() + err.getvalue())
        return Came("nonsense", found.code, found.said, "NaN in JSON") if _no_number(words, out.getvalue()) else found
    except HarnessError as error:
        finding = "not three lines" if str(error).count("\n") > 2 else None
        return Came(finding, error.exit_code, str(error), _place(error))
    except click.ClickException as error:
        return Came(None, error.exit_code, error.format_message())
    except SystemExit as ended:
        return Came(None, int(ended.code or 0), out.getvalue() + err.getvalue())
    except HangError as error:
        return Came("hang", 1, "", _place(error))
    except Exception as error:
        return Came("not foreseen", 1, f"{type(error).__name__}: {str(error)[:200]}", _place(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for alarm, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(alarm, handler)


def _place(error: BaseException) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/harness/" in frame.filename]
    return f"{ours[-1].filename.partition('/harness/')[2]}:{ours[-1].lineno}" if ours else ""


def _no_number(words: Sequence[str], text: str) -> bool:
    """Whether JSON that was asked for holds NaN or an infinity."""
    if "--json" not in words:
        return False
    bad: list[str] = []
    with contextlib.suppress(ValueError):
        json.loads(text, parse_constant=bad.append)
    return bool(bad)
