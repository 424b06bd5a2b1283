"""A start of ours, followed: how far its log has come, how long it is waited for, and that the engine runs with what was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.base import clock
from harness.base.errors import TargetError
from harness.measure.targets.server import vllm_log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.measure.targets.server.process import ServerProcess

_POLL_S = 0.25
_SAY_EVERY_S = 5.0


class Lost(NamedTuple):
    """What happened, and what to try."""

    what: str
    advice: str


@dataclass(slots=True)
class Patience:
    """A start that downloads, compiles and captures takes as long as it takes; one whose log has been silent for `silence_s` hangs.
    `limit_s`: of the whole start, None for none."""

    silence_s: float
    limit_s: float | None
    size_bytes: int = 0
    heard_s: float = 0.0

    def lost(self, elapsed_s: float, size_bytes: int, who: str) -> Lost | None:
        """Why it is given up, by the log's size `elapsed_s` after the start; None: wait on."""
        if size_bytes != self.size_bytes:
            self.size_bytes, self.heard_s = size_bytes, elapsed_s
        if self.limit_s is not None and elapsed_s > self.limit_s:
            return Lost(
                f"{who} was not ready after {self.limit_s:g} s",
                "raise start_timeout_s, or leave it out, if it was still at work",
            )
        if elapsed_s - self.heard_s > self.silence_s:
            what = f"{who} said nothing for {self.silence_s:g} s and was not ready, {elapsed_s:.0f} s after its start"
            return Lost(what, "raise ready_silence_s if it was still at work (py-spy dump --pid shows where it is)")
        return None

    def left_s(self, elapsed_s: float) -> float:
        """Until it would be given up, if nothing more were said; at least a second."""
        left = self.heard_s + self.silence_s - elapsed_s
        return max(1.0, left if self.limit_s is None else min(left, self.limit_s - elapsed_s))


@dataclass(slots=True)
class Start:
    """A start under way: the server, its clock, and what its log has shown so far. `name`: the target's; `who`: what starts, in errors;
    `process_s`: from the spawn to the log's first bytes."""

    name: str
    who: str
    server: ServerProcess
    patience: Patience
    say: Callable[[str], None]
    started_ns: int
    process_s: float | None = None
    phase: str = "starting Python"
    said_s: float = field(default=-_SAY_EVERY_S)
    read_to: int = 0
    ready: bool = False

    def elapsed_s(self) -> float:
        return (clock.monotonic_ns() - self.started_ns) / clock.NS

    def follow(self) -> None:
        """Read what the log has gained and say how far it is, at each new phase and every few seconds."""
        with self.server.log_path.open("rb") as log:
            log.seek(self.read_to)
            new = log.read()
        self.read_to += len(new)
        if new and self.process_s is None and not self.ready:
            self.process_s = self.elapsed_s()
        before = self.phase
        self.phase = vllm_log.phase(new.decode("utf-8", "replace")) or before
        changed = self.phase.partition(",")[0] != before.partition(",")[0]  # a bar that moved on is no other phase
        if changed or self.elapsed_s() - self.said_s >= _SAY_EVERY_S:
            self.said_s = self.elapsed_s()
            self.say(f"{self.name}: {self.phase} ({self.said_s:.0f} s)")

    def check(self) -> None:
        """Raises TargetError if the server died, has been silent for too long or takes longer than declared."""
        log = self.server.log_path
        if why := self.server.died():
            raise TargetError(f"{self.who} died while starting", why, f"{vllm_log.advice(why)}; log: {log}")
        if lost := self.patience.lost(self.elapsed_s(), self.read_to, self.who):
            value = f"last seen: {self.phase}; {vllm_log.cause(log)}"
            raise TargetError(lost.what, value, f"{lost.advice}; log: {log}")

    def wait(self, is_ready: Callable[[], bool]) -> float:
        """Seconds from the spawn until `is_ready`, which is asked four times a second. Raises TargetError as `check` does."""
        while True:
            self.follow()
            self.check()
            self.server.note_members()
            if is_ready():
                self.follow()  # a line that came before the answer is still from before it
                self.ready = True
                return self.elapsed_s()
            clock.sleep(_POLL_S)

    def left_s(self) -> float:
        return self.patience.left_s(self.elapsed_s())


def compare_flags(flags: Mapping[str, Any], runs_with: Mapping[str, str], who: str) -> dict[str, str]:
    """Each of the target's flags that `who` (server, engine) shows again, with what it runs with, in words. Raises TargetError if the context
    length is another one."""
    seen: dict[str, str] = {}
    for name, value in runs_with.items():
        wanted = flags.get(name, not flags[f"no_{name}"] if f"no_{name}" in flags else None)
        if wanted is not None:
            differs = name != "max_model_len" and str(wanted).lower() != value.lower()
            seen[name] = f"asked {wanted}, {who} says {value}{' (differs)' if differs else ''}"
    length = str(flags.get("max_model_len", ""))
    if length.isdigit() and runs_with.get("max_model_len") != length:
        raise TargetError(
            f"the {who} runs with another max_model_len", seen["max_model_len"], f"report it with the {who}'s log"
        )
    return seen
