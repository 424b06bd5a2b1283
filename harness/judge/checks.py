"""Checks of tokens and telemetry: did the server do the work that was asked for, and was anything else going on?"""

from __future__ import annotations

from typing import Any

from harness.judge.columns import BoolArray
from harness.judge.evidence import Evidence, invalid, unknown, warning
from harness.judge.gpu_checks import GPU_CHECKS
from harness.judge.prefix_hits import prefix_cache
from harness.judge.server_state import missing, names_in
from harness.judge.telemetry import foreign_cpu_share
from harness.records import Reason

MAX_LENGTH_MISMATCH = 0.01  # of ok requests whose length is another than asked for
MAX_HARNESS_CPU = 0.05  # of the server's CPU time: both may share the cores
MAX_FOREIGN_CPU = 0.10  # of the machine's CPU time, used by neither harness nor server

_OURS = ("vllm", "adopt", "offline")  # vLLM servers: lengths can be forced and prompts given as token ids


def _off(e: Evidence, got: Any, asked: Any) -> tuple[int, int]:
    """How many ok requests with usage have another length than asked for, of how many."""
    known: BoolArray = e.requests.ok & got.present & asked.present
    return int((got.data != asked.data)[known].sum()), int(known.sum())


def _plain(e: Evidence) -> bool:
    return bool(e.run.manifest.target.get("body") == "plain")


def output_length(e: Evidence) -> Reason | None:
    off, of = _off(e, e.requests.output, e.requests.target_output)
    if off <= MAX_LENGTH_MISMATCH * of:
        return None
    message = f"{off} of {of} replies have another length than asked for"
    if e.kind not in _OURS:
        return warning(
            "output_length",
            f"{message}: this API cannot be made to write a given number of tokens",
            "compare per token or per request of the measured lengths, not of the planned ones",
        )
    forced = "ignore_eos forces" if _plain(e) else "ignore_eos and min_tokens force"
    return invalid(
        "output_length",
        f"{message}, though {forced} it",
        "check max-model-len against the workload and that the server is vLLM",
    )


def prompt_length(e: Evidence) -> Reason | None:
    off, of = _off(e, e.requests.prompt, e.requests.target_prompt)
    if off <= MAX_LENGTH_MISMATCH * of:
        return None
    message = f"{off} of {of} prompts have another length by the server's usage than planned"
    plan = e.run.plan
    as_text = e.run.manifest.target.get("api") == "chat" or _plain(e)
    if as_text and plan is not None and plan["after_seq"].notna().any():
        return warning(
            "prompt_length",
            f"{message}: later turns hold the text of real replies, whose tokens the template and the tokenizer count anew",
            "compare by the measured prompt tokens, or replay sessions over the completions API with body exact, where lengths are exact",
        )
    said = str((e.run.manifest.target.get("checks") or {}).get("vocabulary", "" if e.kind in _OURS else "unverified"))
    if said.startswith("unverified"):
        return warning(
            "prompt_length",
            f"{message}: the words of the prompts could not be verified with this server's tokenizer",
            "compare by the measured prompt tokens",
        )
    return invalid(
        "prompt_length",
        message,
        "the tokenizer behind the prompts is another than the server's: check the model and the chat template",
    )


def _usage_against_server(e: Evidence, kind: str) -> Reason | None:
    check = e.tokens_of(kind)
    usage, server = check.usage, check.server_counter
    if usage is None or server is None or usage == server or e.kind not in _OURS:
        return None
    failed = ~e.requests.ok
    target = e.requests.target_prompt if kind == "prompt" else e.requests.target_output
    if 0 < server - usage <= int(target.data[failed].sum()):
        return None  # the server also counts what it did for requests that did not succeed
    message = f"{kind} tokens: usage says {usage}, the server's counter rose by {server}"
    if e.kind == "adopt" and server > usage:
        return unknown(
            "foreign_traffic",
            f"{message}: {server - usage} were somebody else's",
            "measure when nobody else uses the server",
        )
    return invalid(
        "token_mismatch",
        message,
        "check that /metrics belongs to the server that answers, and that no request was retried",
    )


def prompt_against_server(e: Evidence) -> Reason | None:
    return _usage_against_server(e, "prompt")


def output_against_server(e: Evidence) -> Reason | None:
    return _usage_against_server(e, "output")


def counted_against_usage(e: Evidence) -> Reason | None:
    """Request by request: two errors must not cancel in the sum."""
    r = e.requests
    both = r.ok & r.counted.present & r.output.present
    off = int((r.counted.data != r.output.data)[both].sum())
    if not off:
        return None
    message = f"{off} of {int(both.sum())} replies have another number of tokens in their chunks than in their usage"
    if e.kind not in _OURS:
        return warning(
            "token_mismatch",
            f"{message}: this API may bill tokens that it does not send (reasoning)",
            "usage is what it bills, and what the cost uses",
        )
    return invalid(
        "token_mismatch",
        message,
        "compare counted_output_tokens and output_tokens in requests.parquet, and report one such reply",
    )


def usage_missing(e: Evidence) -> Reason | None:
    r = e.requests
    lacking = int((r.ok & ~(r.output.present & r.prompt.present)).sum())
    if not lacking:
        return None
    return unknown(
        "usage_missing",
        f"{lacking} of {int(r.ok.sum())} ok requests came without usage: tokens, throughput and cost are not known",
        "the API must answer stream_options.include_usage",
    )


def server_counters_missing(e: Evidence) -> Reason | None:
    should = e.kind == "vllm" or (e.kind == "adopt" and e.run.manifest.target.get("metrics_url"))
    if not should or all(t.server_counter is not None for t in e.tokens):
        return None
    why = e.run.manifest.telemetry.get("server", "not recorded")
    version = e.run.manifest.target.get("server_version")
    lacking = missing(e.run.server, version, "prompt_tokens", "output_tokens") if names_in(e.run.server) else ""
    return unknown(
        "server_counters_missing",
        f"no server counters at both edges of the measured phase ({why}{f'; missing {lacking}' if lacking else ''}): tokens "
        "cannot be checked against the server",
        "look at /metrics of the server; it must not run with --disable-log-stats",
    )


def harness_cpu(e: Evidence) -> Reason | None:
    share = e.scalars.get("harness_cpu_share")
    if share is None or share <= MAX_HARNESS_CPU:
        return None
    return warning(
        "harness_cpu",
        f"the harness used {share:.1%} of the CPU time that the server used, above {MAX_HARNESS_CPU:.0%}",
        "on shared cores it slows the server: run it on another machine",
    )


def foreign_cpu(e: Evidence) -> Reason | None:
    """Somebody else's work on the machine: it slows a server on the CPU, and the host side of one on a GPU."""
    cores = int((e.run.manifest.environment.get("cores") or {}).get("logical") or 0)
    share = foreign_cpu_share(e.run.host, e.requests, cores)
    if share is None or share <= MAX_FOREIGN_CPU:
        return None
    kind = unknown if e.run.gpu is None else warning
    return kind(
        "foreign_cpu",
        f"other processes used {share:.0%} of this machine's CPU time, above {MAX_FOREIGN_CPU:.0%}",
        "end them (top shows them) and run again: the server was not alone",
    )


def host_telemetry_missing(e: Evidence) -> Reason | None:
    if e.kind not in ("vllm", "offline") or (e.run.host is not None and len(e.run.host)):
        return None
    why = e.run.manifest.telemetry.get("host", "not recorded")
    return warning(
        "host_telemetry_missing",
        f"no host telemetry ({why}): a load generator that starves the server would not show",
        "see `harness doctor`",
    )


TOKEN_CHECKS = (
    output_length,
    prompt_length,
    prefix_cache,
    counted_against_usage,
    prompt_against_server,
    output_against_server,
    usage_missing,
    server_counters_missing,
)
TELEMETRY_CHECKS = (
    *GPU_CHECKS,
    harness_cpu,
    foreign_cpu,
    host_telemetry_missing,
)
