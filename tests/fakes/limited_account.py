"""An API's account with limits, as its gateway counts them: whatever the clock is, which every call is given in seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class Rule:
    """`allowed` of `kind` (requests | tokens) in `window_s`. `how`: sliding (any window), fixed (each begins at a multiple) or bucket (full at
    first, refilled steadily)."""

    kind: str
    allowed: int
    window_s: float
    how: str = "sliding"
    taken: deque = field(default_factory=deque)  # (at, amount)
    level: float | None = None
    level_at: float = 0.0

    def left(self, now: float) -> float:
        match self.how:
            case "bucket":
                if self.level is None:
                    self.level, self.level_at = self.allowed, now
                self.level = min(self.allowed, self.level + (now - self.level_at) * self.allowed / self.window_s)
                self.level_at = now
                return self.level
            case "fixed":
                begin = now // self.window_s * self.window_s
            case _:
                begin = now - self.window_s
        while self.taken and self.taken[0][0] <= begin - (self.how == "fixed") * 1e-9:
            self.taken.popleft()
        return self.allowed - sum(amount for _, amount in self.taken)

    def take(self, now: float, amount: float) -> None:
        if self.how == "bucket":
            self.level -= amount
        elif amount > 0:
            self.taken.append((now, amount))
        else:  # given back
            for i in reversed(range(len(self.taken))):
                at, had = self.taken[i]
                back = min(had, -amount)
                self.taken[i] = (at, had - back)
                amount += back

    def reset_s(self, now: float) -> float:
        """Until it is whole again."""
        left = self.left(now)
        match self.how:
            case "bucket":
                return (self.allowed - left) * self.window_s / self.allowed
            case "fixed":
                return self.window_s - now % self.window_s
            case _:
                return max((at + self.window_s - now for at, _ in self.taken), default=0.0)


@dataclass
class LimitedAccount:
    """`settles`: what a reply did not use is given back. `tells`: the limits stand in every head, by OpenAI's names, or (`ietf`) those of requests with their window. `answers`: status of each offer; `seen`: when it was one."""

    rules: list[Rule]
    settles: bool = False
    tells: bool | str = True
    retry_after: bool = True
    answers: list[int] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)

    def offer(self, now: float, prompt: int, max_tokens: int) -> tuple[int, dict[str, str]]:
        """Status and headers of a request that comes now."""
        amounts = {"requests": 1, "tokens": prompt + max_tokens}
        lacking = [rule for rule in self.rules if rule.left(now) < amounts[rule.kind] - 1e-9]
        if not lacking:
            for rule in self.rules:
                rule.take(now, amounts[rule.kind])
        self.answers.append(429 if lacking else 200)
        self.seen.append(now)
        headers = self._told(now) if self.tells else {}
        if lacking and self.retry_after:
            headers["retry-after"] = str(max(rule.reset_s(now) for rule in lacking))
        return self.answers[-1], headers

    def done(self, now: float, unused_tokens: int) -> None:
        for rule in self.rules:
            if self.settles and rule.kind == "tokens" and unused_tokens > 0:
                rule.take(now, -unused_tokens)

    def _told(self, now: float) -> dict[str, str]:
        told = {}
        for rule in self.rules:
            if self.tells == "ietf":
                told["ratelimit-limit"] = f"{rule.allowed}, {rule.allowed};w={rule.window_s:.0f}"
                told["ratelimit-remaining"] = str(max(0, int(rule.left(now))))
                continue
            told[f"x-ratelimit-limit-{rule.kind}"] = str(rule.allowed)
            told[f"x-ratelimit-remaining-{rule.kind}"] = str(max(0, int(rule.left(now))))
            told[f"x-ratelimit-reset-{rule.kind}"] = f"{rule.reset_s(now):.3f}s"
        return told
