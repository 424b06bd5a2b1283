"""Whether a plan fits what it is to be sent to: the model's context, the account's limits of a minute, and how long those make it last."""

from __future__ import annotations

import math

from harness.base.errors import ConfigError
from harness.config.target import TargetSpec
from harness.measure.targets import Target
from harness.records import Plan


def check_context(plan: Plan, target: Target) -> None:
    """Raises ConfigError where a request is longer than the model takes."""
    limit = target.info.max_model_len
    longest = max((r.target_prompt_tokens + r.target_output_tokens for r in plan.requests), default=0)
    if limit is not None and longest > limit:
        raise ConfigError(
            "a planned request does not fit the model's context",
            f"{longest} prompt + output tokens planned, {target.info.model} takes {limit}",
            f"set context_limit_tokens: {limit} (longer ones are redrawn and counted) or raise the server's max-model-len",
        )


def check_account(plan: Plan, spec: TargetSpec) -> None:
    """Raises ConfigError where a request alone is more than a minute's tokens: it could never be sent."""
    limits = spec.limits
    if limits is None:
        return
    for name, most, taken in (
        ("tpm", limits.tpm, lambda r: r.target_prompt_tokens + r.target_output_tokens),
        ("input_tpm", limits.input_tpm, lambda r: r.target_prompt_tokens),
        ("output_tpm", limits.output_tpm, lambda r: r.target_output_tokens),
    ):
        largest = max(map(taken, plan.requests), default=0)
        if most is not None and largest > most:
            raise ConfigError(
                "a planned request is more than the account's limit of a minute",
                f"{largest:,} tokens planned, {name} is {most:,}",
                f"shorten the workload, or correct {name} of target {spec.name!r}",
            )


def paced_s(spec: TargetSpec, requests: int, prompt_tokens: int, output_tokens: int) -> float:
    """Least seconds from the first send to the last of so many requests and tokens where the target's runs are paced; 0 without limits.

    A minute's limit lets its whole allowance go at once, and again when the minute is over: (ceil(taken / allowed) - 1) minutes.
    """
    limits = spec.limits
    if limits is None or not limits.pace:
        return 0.0
    taken = (
        (limits.rpm, requests),
        (limits.tpm, prompt_tokens + output_tokens),
        (limits.input_tpm, prompt_tokens),
        (limits.output_tpm, output_tokens),
    )
    minutes = [math.ceil(amount / allowed) - 1 for allowed, amount in taken if allowed is not None]
    return 60.0 * max(0, *minutes) if minutes else 0.0
