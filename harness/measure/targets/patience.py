"""How long a start is waited for: as long as its log goes on, and no longer than declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


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
