"""What is sent, and when: drawn before the first byte goes out."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.column import col

# a reply longer than this is another request than the one planned, and billed until we hang up
OVERRUN_TIMES = 2  # of the tokens asked for
OVERRUN_SLACK = 64  # tokens: by then it has been noticed


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request as drawn; a row of plan.parquet."""

    seq: int = col(
        "", "Position in the plan: 0.. for measured requests, -1, -2, .. for warm-up (not stored in plan.parquet)"
    )
    scheduled_ns: int | None = col("ns", "When to send, as an offset from the start; null in a closed loop")
    target_prompt_tokens: int = col("tokens", "Prompt length asked for")
    target_output_tokens: int = col("tokens", "Output length asked for")
    session_id: int | None = col("", "Requests of one session share it; null without sessions")
    prompt_seed: int = col(
        "", "Seed of the prompt's tokens after those of `prefix`: equal seed, prefix and length, equal prompt"
    )
    prefix: tuple[int, ...] = col(
        "", "How the prompt begins, as pairs seed, tokens: the first `tokens` of each seed's stream", default=()
    )
    after_seq: int | None = col(
        "", "Closed loop inside a session: sent `think_ns` after the reply to this request; else null", default=None
    )
    think_ns: int | None = col("ns", "Pause between that reply and this request; null without after_seq", default=None)


@dataclass(frozen=True, slots=True)
class Load:
    """How the plan is offered: exactly one of `concurrency` (closed loop) and `rate_rps` (open loop) is set.

    Arrivals that bring their own times (`batch`, `trace`, `preset`) may leave both out: the plan drawn then holds the
    load with its mean rate filled in, except that a batch has none. `capacity` stands for a search: its probes have rates.
    """

    concurrency: int | None = None
    rate_rps: float | None = None
    arrivals: str = "poisson"  # open loop only; the words are in measure/plan/arrivals.py

    @property
    def is_closed(self) -> bool:
        """So many requests at a time, each sent when another ends: nothing is scheduled."""
        return self.concurrency is not None

    @property
    def name(self) -> str:
        if self.is_closed:
            return f"c{self.concurrency}"
        rate = "" if self.rate_rps is None else f"r{self.rate_rps:g}"
        return rate if self.arrivals == "poisson" else "-".join(filter(None, (rate, self.arrivals)))

    @property
    def words(self) -> str:
        """`concurrency 16` or `2 req/s poisson`; arrivals alone where no rate is known."""
        if self.is_closed:
            return f"concurrency {self.concurrency}"
        return self.arrivals if self.rate_rps is None else f"{self.rate_rps:g} req/s {self.arrivals}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be sent, and when. `sha256` covers spec, seed, load and every row, measured and warm-up, as they
    are without a salt. `salt`: what the words of all prompts were changed by, for this run alone; 0: by nothing."""

    requests: tuple[PlannedRequest, ...]
    warmup: tuple[PlannedRequest, ...]
    load: Load
    workload: str
    seed: int
    sha256: str
    salt: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt made ready for a target: token ids where the target takes ids, else text."""

    seq: int
    text: str | None
    token_ids: tuple[int, ...] | None
    messages: tuple[tuple[str, str], ...] | None = None  # chat with earlier turns: role, content; else null
