"""The steady part of a run.

A window is the half-open interval (start, end]: a stamp at the start is outside, one at the end inside. Both ends are
sends wherever that is possible, because then the sends inside are as many as the gaps between them: n sends in n gaps,
where an interval cut at arbitrary times counts one too many or too few.

Closed loop, concurrency c. The start is the 2c-th send: every slot has been filled and refilled as often as there are
slots, so the first wave with its common prefill is over. The end is the last send: after it the number in flight
falls (drain). When replies of equal length end and restart together in waves, both ends lie at the same phase of a wave
(after its last restart), so the window holds whole waves; starting at the first completion instead would count the
spread of a wave's end without its restart.

Open loop. The start is the first send after one median E2EL of ramp, where the sends span at least 10 of those, else the first
send. The end is the last send.

Runs too short for that (see `_MIN_OPEN_REQUESTS` and 2c) get the whole phase, from the first send to the last token, with
ramp and drain in it; validity then says so.
"""

from __future__ import annotations

import numpy as np

from harness.analyse.columns import IntArray, Requests
from harness.records import Load, Window

_MIN_OPEN_REQUESTS = 10  # below it an open loop has no steady part to speak of
_RAMP_SHARE = 10  # the ramp is left out where sends span at least this many median E2ELs
_MIN_WINDOW_NS = 1_000_000  # a window shorter than 1 ms holds no rate

WHOLE_PHASE = "whole phase"  # how the rule of a window without a steady part begins


def _closed(sends: IntArray, concurrency: int) -> tuple[int, int, str] | None:
    n = len(sends)
    if n >= 3 * concurrency:
        start = int(sends[2 * concurrency - 1])
        return (
            start,
            int(sends[-1]),
            f"closed loop: from send {2 * concurrency} (all {concurrency} slots refilled) to the last send, {n}",
        )
    if n >= 2 * concurrency:
        return (
            int(sends[0]) - 1,
            int(sends[-1]),
            (
                f"closed loop, fewer than 3 x {concurrency} requests: from the first send (first wave included) to the last send, {n}"
            ),
        )
    return None


def _open(sends: IntArray, median_e2el_ns: int | None) -> tuple[int, int, str] | None:
    n = len(sends)
    if n < _MIN_OPEN_REQUESTS:
        return None
    first, last = int(sends[0]), int(sends[-1])
    if median_e2el_ns is not None and last - first >= _RAMP_SHARE * median_e2el_ns:
        start = int(sends[np.searchsorted(sends, first + median_e2el_ns)])
        return (
            start,
            last,
            f"open loop: from the first send after one median E2EL ({median_e2el_ns / 1e9:.3f} s) to the last send, {n}",
        )
    return (
        first,
        last,
        f"open loop shorter than {_RAMP_SHARE} median E2EL: from the first send (ramp included) to the last send, {n}",
    )


def find_window(requests: Requests, load: Load) -> tuple[Window | None, str]:
    """The window and its rule, or None and the reason why there is none. Never raises."""
    sends = np.sort(requests.sent.data[requests.sent.present])
    if not len(sends):
        return None, "no request of the measured phase was sent"
    done = requests.ok & requests.last_token.present & requests.sent.present
    if not done.any():
        return None, "no request of the measured phase succeeded"
    last_token = int(requests.last_token.data[done].max())
    e2el = requests.last_token.data[done] - requests.sent.data[done]
    found = _closed(sends, load.concurrency) if load.concurrency is not None else _open(sends, int(np.median(e2el)))
    if found is None or found[1] - found[0] < _MIN_WINDOW_NS:
        found = (
            int(sends[0]) - 1,
            last_token,
            f"{WHOLE_PHASE}, first send to last token: {len(sends)} requests are too few for a steady part",
        )
    start, end, rule = found
    if end - start < _MIN_WINDOW_NS:
        return None, f"the measured phase lasted {max(0, end - start)} ns"
    ended = requests.ended.data[requests.ended.present]
    phase_end = max(last_token, int(ended.max()) if len(ended) else last_token)
    ramp_s = max(0, start - int(sends[0])) / 1e9
    return Window(start, end, rule, ramp_s, max(0, phase_end - end) / 1e9), rule
