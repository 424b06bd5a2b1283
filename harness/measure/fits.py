"""Whether a plan fits what it is to be sent to: the model's context, the account's limits of a minute."""

from __future__ import annotations

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
