"""The two sides of a replay as measured runs show them: what the own server takes for a token, and the hosted side's latencies.

    TPOT ~ step + step_per_request x running        TTFT on an idle server ~ first + prefill x prompt tokens

Both by least squares without negative coefficients, over ok requests of the measured phase.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.base.errors import ConfigError
from harness.base.stats import nnls
from harness.config.target import flags_by_name
from harness.judge.columns import FloatArray, IntArray, Requests, measured_of
from harness.judge.metrics import per_request
from harness.records import RunData
from harness.routing.sides import Batching

_LEAST = 50  # ok requests that a model is fitted to
_IDLE = 12  # requests with the fewest others in flight, and all with as few, are taken for idle


def _in_flight(starts: IntArray, ends: IntArray, at: IntArray) -> FloatArray:
    """Requests with start <= at < end."""
    begun = np.searchsorted(np.sort(starts), at, side="right")
    over = np.searchsorted(np.sort(ends), at, side="right")
    return (begun - over).astype(np.float64)


def _used(run: RunData) -> tuple[Requests, np.ndarray[Any, np.dtype[np.bool_]]]:
    requests = measured_of(run)
    return requests, requests.ok & requests.sent.present & requests.first_token.present & requests.last_token.present


def batching_of(runs: Sequence[RunData], slots: int | None = None) -> Batching:
    """The model of the server behind `runs`. `slots`: None: its flag max-num-seqs. Raises ConfigError: too few requests, or no slots."""
    tpots, running, ttfts, prompts, others = [], [], [], [], []
    for run in runs:
        requests, use = _used(run)
        values = per_request(requests)
        first, last, sent = (column.data[use] for column in (requests.first_token, requests.last_token, requests.sent))
        decodes = ~np.isnan(values["tpot_s"][use])
        middle = (first + last) // 2
        tpots.append(values["tpot_s"][use][decodes])
        running.append(_in_flight(first, last, middle)[decodes])
        ttfts.append(values["ttft_s"][use])
        prompts.append(requests.target_prompt.data[use].astype(np.float64))
        others.append(_in_flight(sent, last, sent))
    tpot, ttft = np.concatenate(tpots or [np.zeros(0)]), np.concatenate(ttfts or [np.zeros(0)])
    if len(tpot) < _LEAST:
        raise ConfigError("too few requests to model the own side", f"{len(tpot)} with a TPOT", f"at least {_LEAST}")
    step_s, each_s = nnls(np.column_stack([np.ones(len(tpot)), np.concatenate(running)]), tpot)
    load, prompt = np.concatenate(others), np.concatenate(prompts)
    idle = load <= np.sort(load)[_IDLE - 1]
    first_s, prefill_s = nnls(np.column_stack([np.ones(int(idle.sum())), prompt[idle]]), ttft[idle])
    return Batching(slots or _slots(runs), float(step_s), float(each_s), float(first_s), float(prefill_s))


def _slots(runs: Sequence[RunData]) -> int:
    for run in runs:
        flags: Mapping[str, Any] = run.manifest.target.get("flags") or {}
        if (value := str(flags_by_name(flags).get("max_num_seqs"))).isdigit():
            return int(value)
    raise ConfigError(
        "how many requests the own side runs at once is not known", "no flag max-num-seqs", "give --slots"
    )


def latencies_of(runs: Sequence[RunData]) -> list[tuple[float, float]]:
    """(TTFT, TPOT) in seconds of every ok request. Raises ConfigError where there are too few."""
    found: list[tuple[float, float]] = []
    for run in runs:
        requests, use = _used(run)
        values = per_request(requests)
        pairs = np.column_stack([values["ttft_s"][use], np.nan_to_num(values["tpot_s"][use])])
        found += [(float(ttft), float(tpot)) for ttft, tpot in pairs]
    if len(found) < _LEAST:
        raise ConfigError("too few requests of the hosted side", len(found), f"at least {_LEAST}")
    return found


def lengths_of(runs: Sequence[RunData]) -> list[tuple[int, int]]:
    """(prompt, output) tokens asked for, of every measured request."""
    lengths: list[tuple[int, int]] = []
    for run in runs:
        requests = measured_of(run)
        lengths += zip(requests.target_prompt.data.tolist(), requests.target_output.data.tolist(), strict=True)
    return lengths
