"""A vLLM server's own log as a trace: the lines that `--enable-log-requests` writes.

vLLM says how long a prompt was only at its debug level ("Request ID details: .. prompt_token_ids: [..]"; releases up to 0.10
say it on the "Received request" line itself), what was asked for on "Received request ID: params: SamplingParams(..)", and
what was generated on "Generated response ID .." (chat only, `--enable-log-outputs`). Times are whole seconds without a year.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import ConfigError
from harness.measure.plan.traces.values import clock_ns

PEEK_LINES = 5_000
HOW_TO_LOG = (
    "start the server with VLLM_LOGGING_LEVEL=DEBUG --enable-log-requests --enable-log-outputs: only so does vLLM write "
    "prompt lengths"
)
_STAMP = r"(?:DEBUG|INFO|WARNING|ERROR) (\d\d-\d\d) (\d\d:\d\d:\d\d) \[[^\]]*\] "
_LINE = re.compile(_STAMP + r"(Received request|Request|Generated response) (\S+?)(?::| details:| \(streaming)")
_ANY = re.compile(_STAMP)
_ACCESS = re.compile(r'INFO: +\S+ - "(?:POST|GET) \S+ HTTP/[\d.]+" \d{3}')
_PARAMS = re.compile(r"params: SamplingParams\(.*?\bignore_eos=(\w+), max_tokens=(\w+), min_tokens=(\w+)")
_IDS = re.compile(r"(?:prompt|output)_token_ids: \[([\d, ]*)\]")
_MAX_LOG_LEN = re.compile(r"'max_log_len': (\d+)")


@dataclass(slots=True)
class LoggedRequest:
    """What the log says of one request. `bound`: its output is not told, only the most that it may have been."""

    line: int
    time_ns: int
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    forced: bool = False  # it had to generate max_tokens
    generated: int | None = None
    whole: bool = False  # `generated` is the whole answer, not a sum of chunks
    cut: bool = False  # the log shows only so many ids as --max-log-len

    @property
    def bound(self) -> bool:
        return self.generated is None and not self.forced

    @property
    def output_tokens(self) -> int | None:
        """Generated ids of a whole answer, else what it was forced to, else the ids of its chunks, else the bound."""
        if self.forced and not self.whole:
            return self.max_tokens
        return self.generated if self.generated is not None else self.max_tokens


def is_server_log(path: Path, lines: Iterator[str]) -> bool:
    """True for a vLLM log; raises ConfigError for one of access lines alone."""
    access = ""
    for number, line in zip(range(PEEK_LINES), lines, strict=False):
        if _ANY.search(line[:200]):
            return True
        if not access and _ACCESS.search(line[:400]):
            access = f"{path}, line {number + 1}: {line.strip()[:120]!r}"
    if access:
        raise ConfigError("access lines hold no token counts (and uvicorn's no times)", access, HOW_TO_LOG)
    return False


def logged_requests(path: Path, lines: Iterator[str]) -> list[LoggedRequest]:
    """Requests in the order of their arrival. Raises ConfigError where the log holds none, or no prompt lengths."""
    by_name: dict[str, LoggedRequest] = {}
    order: list[LoggedRequest] = []
    year, month, longest = 2000, "00", None
    for number, line in enumerate(lines, 1):
        match = _LINE.search(line[:300])
        if match is None:
            if longest is None and (limit := _MAX_LOG_LEN.search(line)):
                longest = int(limit[1])
            continue
        day, clock, kind, name = match.groups()
        year, month = year + (day[:2] < month), day[:2]
        if name not in by_name:
            if kind == "Generated response":
                continue  # of a request that came before the log's first line
            by_name[name] = LoggedRequest(number, clock_ns(f"{year}-{day} {clock}"))
        _take(by_name[name], kind, line, longest)
        if kind == "Received request" and by_name[name].max_tokens is not None:
            order.append(by_name[name])
    if not order:
        raise ConfigError("the server's log holds no requests for tokens", path, HOW_TO_LOG)
    if all(one.prompt_tokens is None for one in order):
        raise ConfigError("the server's log does not say how long its prompts were", f"{path}: {len(order):,} requests", HOW_TO_LOG)  # fmt: skip
    return order


def _take(request: LoggedRequest, kind: str, line: str, longest: int | None) -> None:
    if kind == "Received request" and (params := _PARAMS.search(line)):
        ignore_eos, most, least = params.groups()
        request.max_tokens = int(most) if most.isdigit() else None
        request.forced = ignore_eos == "True" or most == least
    lists = _IDS.findall(line)
    if not lists:
        return
    count = lists[-1].count(",") + 1 if lists[-1].strip() else 0  # the last: a prompt's text may hold anything
    request.cut |= longest is not None and count >= longest
    if kind != "Generated response":
        request.prompt_tokens = count
    elif "(streaming" in line:
        request.generated = (request.generated or 0) + count
    else:
        request.generated, request.whole = (request.generated or 0) + count, True
