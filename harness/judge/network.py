"""The way to a target apart from its server: how long it took beside the run, and what TTFT is without it.

    TTFT less path = TTFT - median HTTP round trip on an idle connection

An estimate: a round trip also holds what the API does for a request without a model (its gateway, the key), and leaves out what a long
prompt takes to go up. It stands beside TTFT and never replaces it.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import numpy as np

from harness.judge.columns import FloatArray, floats, ints
from harness.records import Distribution, Manifest, NetworkPath, RunData, Window

_STEPS = ("dns_s", "tcp_s", "tunnel_s", "tls_s")
_MIN_FOR_PERCENTILES = 20  # one expected beyond each of the two


def round_trips(run: RunData, window: Window | None) -> FloatArray:
    """Seconds of the round trips in the window and at its edges, of the whole run where there are none."""
    frame = run.network
    if frame is None or not len(frame):
        return np.zeros(0)
    trips = floats(frame, "round_trip_s")
    there = ~np.isnan(trips)
    if window is not None:
        stamps = ints(frame, "stamp_ns").data
        near = there & ((stamps > window.start_ns) & (stamps <= window.end_ns) | frame["edge"].notna().to_numpy(bool))
        there = near if near.any() else there
    found: FloatArray = trips[there]
    return found


def median_round_trip_s(run: RunData, window: Window | None) -> float | None:
    trips = round_trips(run, window)
    return float(np.median(trips)) if len(trips) else None


def network_path(run: RunData, window: Window | None, ttft: Distribution | None) -> NetworkPath | None:
    """None for a run without round trips: a server of ours, or observe.network: off."""
    frame = run.network
    if frame is None or not len(frame):
        return None
    trips = round_trips(run, window)
    low_s = middle_s = high_s = None
    if len(trips):
        ends = (0.05, 0.5, 0.95) if len(trips) >= _MIN_FOR_PERCENTILES else (0.0, 0.5, 1.0)
        low_s, middle_s, high_s = np.quantile(trips, ends).tolist()
    ttft_s = ttft.p50 if ttft is not None else None
    facts = run.manifest.telemetry.get("network_facts") or {}
    asked = run.manifest.target_config

    def less(trip_s: float | None) -> float | None:
        return None if ttft_s is None or trip_s is None else ttft_s - trip_s

    return NetworkPath(
        round_trips=len(trips),
        failed=int(frame["error"].notna().sum()),
        round_trip_p50_s=middle_s,
        round_trip_low_s=low_s,
        round_trip_high_s=high_s,
        before=_steps(frame, "start"),
        after=_steps(frame, "end"),
        ttft_p50_s=ttft_s,
        ttft_less_path_s=less(middle_s),
        ttft_less_path_low_s=less(high_s),
        ttft_less_path_high_s=less(low_s),
        region=asked.get("region"),
        places=_places(run.manifest),
        proxy=facts.get("proxy"),
        connections=str(asked.get("connections") or "kept"),
        begun_utc=run.manifest.created_utc,
        utc_hour=_hour(run.manifest.created_utc),
    )


def _places(manifest: Manifest) -> dict[str, int]:
    """What replies and round trips said of where they came from."""
    counts: Counter[str] = Counter()
    for said in ((manifest.telemetry.get("network_facts") or {}).get("places"), manifest.telemetry.get("places")):
        counts.update(said or {})
    return dict(counts)


def _steps(frame: Any, edge: str) -> dict[str, float]:
    rows = frame[frame["edge"].eq(edge).fillna(value=False).to_numpy(bool)]
    found = {name: floats(rows, name) for name in _STEPS}
    return {name: float(values[~np.isnan(values)][-1]) for name, values in found.items() if (~np.isnan(values)).any()}


def _hour(created_utc: str) -> int | None:
    try:
        return datetime.fromisoformat(created_utc).hour
    except ValueError:
        return None
