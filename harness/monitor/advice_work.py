"""Advice on work that is done twice: prompts that no cache remembers, requests that are put back."""

from __future__ import annotations

from statistics import fmean

import numpy as np

from harness.monitor.evidence import DAYS_PER_MONTH, Ends, FloatArray, PoolEvidence, made, monthly
from harness.records.monitor import Advice


def prefix_caching_off(one: PoolEvidence) -> Advice | None:
    """Servers without a prefix-cache hit beside servers of the same model with hits: their prompts repeat too, as far as is known."""
    prompt, cached = one.sums["prompt_tokens"], np.nan_to_num(one.sums["cached_tokens"])
    servers, models = np.array([key[1] for key in one.keys]), np.array([key[2] for key in one.keys])
    hits = {(s, m): cached[:, (servers == s) & (models == m)].sum() for s, m in set(zip(servers, models, strict=True))}
    off = np.array([not hits[s, m] for s, m in zip(servers, models, strict=True)])
    if not off.any() or off.all() or np.isnan(prompt).any():
        return None
    price = _input_usd(one)
    saved, shares = np.zeros(len(prompt)), []
    for model in sorted(set(models[off]) & set(models[~off])):
        mine, beside = off & (models == model), ~off & (models == model)
        given = prompt[:, beside].sum(axis=1)
        share = np.divide(cached[:, beside].sum(axis=1), given, out=np.zeros(len(given)), where=given > 0)
        saved += (prompt[:, mine] * price[mine]).sum(axis=1) * share
        shares += share.tolist()
    if not shares:
        return None
    names = ", ".join(sorted(set(servers[off]))[:5])
    return made(
        one,
        "prefix_caching_off",
        f"no prompt token of {names} comes from a prefix cache, {fmean(shares):.0%} of those beside it do: turn prefix caching on",
        monthly(saved.tolist()),
        f"its prompt tokens x the hit share beside it ({min(shares):.0%} to {max(shares):.0%} a day) x $ a computed prompt token x {DAYS_PER_MONTH:.4g} days",
        "its prompts are others, or replicas cannot be dropped for the work that is saved",
    )


def _input_usd(one: PoolEvidence) -> FloatArray:
    """Dollars of a computed prompt token of each key, over the window; 0 where none was computed."""
    prices = {(row.pool, row.server, row.model, row.tenant): row.input_usd_per_million for row in one.rows}
    return np.array([float(prices.get(key) or 0) / 1e6 for key in one.keys], np.float64)


def preemptions(one: PoolEvidence) -> Advice | None:
    """Tokens computed again: the mean prompt and half a mean reply for each preemption; low: the prompt alone, high: all of both."""
    names = ("preemptions", "requests", "prompt_tokens", "output_tokens")
    again, requests, prompt, output = (one.sums[name] for name in names)
    if not one.keys or any(np.isnan(one.sums[name]).any() for name in names):
        return None
    each = np.divide(again, requests, out=np.zeros_like(again), where=requests > 0)
    price = _input_usd(one)
    days = [(each * (prompt + part * output) * price).sum(axis=1).tolist() for part in (0.5, 0.0, 1.0)]
    middle, least, most = (monthly(usd) for usd in days)
    tokens = float((each * (prompt + output / 2)).sum())
    done = float((np.maximum(0.0, prompt - np.nan_to_num(one.sums["cached_tokens"])) + output).sum())
    share = tokens / (tokens + done) if tokens else 0.0
    return made(
        one,
        "preemptions",
        f"KV preemptions eat {share:.1%} of the tokens computed: fewer sequences at once, more KV cache, or a replica more",
        Ends(middle.mean, least.low, most.high, least.surely),
        f"preemptions x (mean prompt + half a mean reply) x $ a computed prompt token x {DAYS_PER_MONTH:.4g} days",
        "preempted prompts were still in the prefix cache, or replicas cannot be dropped for the work that is saved",
    )
