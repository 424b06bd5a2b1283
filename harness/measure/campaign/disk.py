"""Bytes that a cell takes: what stays of it, and what stands beside that while it runs (prompts, what is received, part files).

Found by running the golden server with plans of several shapes; a real server's chunks and token ids are about as long.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.measure.drive.feed import AHEAD_BYTES, SEGMENT_BYTES

# What stays: files of a run as such, then a request's and a token's part of them, and telemetry.
_RUN, _REQUEST, _TOKEN, _SECOND = 60_000, 25, 4, 1_000
# A prompt as it is sent: head and parameters of a request, its entries in the index, a token (4.0 of ids below 1,000, about 6 of
# ids of a large vocabulary). A later turn's plan is kept in 4 bytes a token beside what is sent.
_HEAD, _PROMPT_TOKEN, _PLANNED_TOKEN = 300, 4.8, 4
# A reply as it came, kept for some seconds after it was read, in segments that go whole.
_REPLY, _REPLY_TOKEN, _KEPT_S, _SEGMENTS = 550, 290, 10, 2 << 24
_PARTS_SECOND = 37_000  # each second's part files have a footer of many columns


@dataclass(frozen=True, slots=True)
class CellBytes:
    """`stays`: the run directory in the end. `beside`: what its running takes in addition, at its end, when it is most."""

    stays: int
    beside: int


def cell_bytes(
    requests: int, prompt_tokens: float, output_tokens: float, turn_tokens: float, planned: float, seconds: float
) -> CellBytes:
    """`requests` and `output_tokens`: what will be answered in `seconds`. `planned` requests of `prompt_tokens` are written
    down as they are sent, so many bytes ahead; of them `turn_tokens` are in later turns, whose plan stays."""
    stays = _RUN + _REQUEST * requests + _TOKEN * output_tokens + _SECOND * seconds
    prompts = min(_HEAD * planned + _PROMPT_TOKEN * prompt_tokens, AHEAD_BYTES + 2 * SEGMENT_BYTES)
    prompts += _PLANNED_TOKEN * turn_tokens
    received = _REPLY * requests + _REPLY_TOKEN * output_tokens
    received = min(received, received * _KEPT_S / max(seconds, 1e-9) + _SEGMENTS)
    return CellBytes(int(stays), int(prompts + received + _PARTS_SECOND * seconds))
