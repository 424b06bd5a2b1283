"""What a trace file is, by its content: a layout says which column holds what, and in which unit its time is."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from harness.base.documents import parse_json
from harness.base.errors import ConfigError
from harness.measure.plan.traces.server_log import is_server_log

PEEK_CHARS = 1 << 20
KNOWN = (
    "Azure 2023/2024 and BurstGPT CSV, Mooncake and Qwen-Bailian JSONL, Claude Code sessions (WEKA, .json files or a folder of them),"
    " chat texts (ShareGPT .json, OpenAI .jsonl), a vLLM server's log with its requests, and CSV, JSONL or Parquet with prompt_tokens, output_tokens[, arrival_s][, session]"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of the columns (or keys, `a.b` for b inside a); None where the format has none."""

    name: str
    kind: str  # csv | jsonl | parquet | weka | texts | server-log
    prompt: str = ""
    output: str = ""
    time: str | None = None
    time_unit: str = "s"  # s | ms | clock (date and time of day) | any (clock or seconds)
    session: str | None = None
    parent: str | None = None  # the row that this one continues, -1 for none: sessions are chains of them
    hashes: str | None = None
    block_tokens: int | None = None
    zero_is_failure: bool = False  # output 0 marks a request that failed
    ticks: bool = False  # recorded in coarse ticks: times are spread inside them


_AZURE = Layout("Azure", "csv", "ContextTokens", "GeneratedTokens", "TIMESTAMP", "clock")
_BURST = Layout("BurstGPT", "csv", "Request tokens", "Response tokens", "Timestamp", zero_is_failure=True, ticks=True)
_MOONCAKE = Layout(
    "Mooncake",
    "jsonl",
    "input_length",
    "output_length",
    "timestamp",
    "ms",
    hashes="hash_ids",
    block_tokens=512,
    ticks=True,
)
_BAILIAN = Layout(
    "Qwen-Bailian", "jsonl", "input_length", "output_length", "timestamp", "s", "chat_id", "parent_chat_id", "hash_ids", 16
)  # fmt: skip
_PROMPTS = ("prompt_tokens", "input_tokens", "input_length", "usage.prompt_tokens", "usage.input_tokens")
_OUTPUTS = (
    "output_tokens", "completion_tokens", "output_length", "generated_tokens", "usage.completion_tokens", "usage.output_tokens"
)  # fmt: skip
_TIMES = ("arrival_s", "startTime", "start_time", "timestamp", "created")
_SESSIONS = ("session", "session_id")
TEXT_KEYS = ("conversations", "messages", "body.messages", "request.messages")


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The file as text, through gzip where its first bytes say so. Raises ConfigError."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) if packed else raw as data:
            yield io.TextIOWrapper(data, encoding="utf-8-sig", newline="")
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise ConfigError("trace file cannot be read", path, f"{type(error).__name__}: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError("trace file is not UTF-8 text", path, f"byte {error.start}: {error.reason}") from None


def recognise(path: Path) -> Layout:
    """Layout of a file, or of a folder of session files. Raises ConfigError naming what it looked like."""
    if path.is_dir():
        files = session_files(path)
        if not files:
            raise ConfigError(
                "folder holds no session files", path, "a folder of .json files with sessions is expected"
            )
        return recognise(files[0])
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
    except OSError as error:
        raise ConfigError("trace file cannot be read", path, str(error)) from None
    if magic == b"PAR1":
        return _parquet_layout(path)
    with open_text(path) as text:
        first = next((line for line in iter(lambda: text.readline(PEEK_CHARS), "") if line.strip()), "").strip()
    if not first:
        raise ConfigError("trace file is empty", path, f"known formats: {KNOWN}")
    if first[0] == "[":
        return Layout("chat texts", "texts")
    if first[0] == "{":
        return _json_layout(path, first)
    with open_text(path) as text:
        names = _columns(text)
    layout = _of_names(names, "csv") or _log_layout(path)
    if layout is None:
        raise ConfigError("trace format not recognised", f"{path}, line 1: {first[:160]!r}", f"known formats: {KNOWN}")
    return layout


def header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    """Names of a CSV's columns in lower case, from its first line that is not empty. Raises ConfigError: one stands twice."""
    names = [name.strip().lower() for name in next(row for row in reader if row)]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ConfigError("a column of the trace stands twice", f"{path}, {twice[0]!r}", "leave one of the two out")
    return names


def _columns(text: TextIO) -> list[str]:
    try:
        return [name.strip() for name in next((row for row in csv.reader(text) if row), [])]
    except csv.Error:  # a field beyond what a header holds
        return []


def _log_layout(path: Path) -> Layout | None:
    with open_text(path) as text:
        if not is_server_log(path, iter(lambda: text.readline(PEEK_CHARS), "")):
            return None
    return Layout("vLLM server log", "server-log", "prompt_token_ids", "output_token_ids", "log line", ticks=True)


def session_files(path: Path) -> list[Path]:
    """Files of a session trace, sorted by name."""
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


def value_at(row: Mapping[str, Any], key: str) -> Any:
    """`a.b` is b inside a; None where absent."""
    if "." not in key:
        return row.get(key)
    inner: Any = row
    for part in key.split("."):
        inner = inner.get(part) if isinstance(inner, dict) else None
    return inner


def _json_layout(path: Path, first: str) -> Layout:
    try:
        row = parse_json(first)
    except ValueError:
        row = None
        if '"requests"' in first or len(first) >= PEEK_CHARS or first == "{":
            return Layout("Claude Code sessions (WEKA)", "weka", hashes="hash_ids", block_tokens=64)
    if isinstance(row, dict):
        if isinstance(row.get("requests"), list):
            return Layout("Claude Code sessions (WEKA)", "weka", hashes="hash_ids", block_tokens=64)
        if any(isinstance(value_at(row, key), list) for key in TEXT_KEYS):
            return Layout("chat texts", "texts")
        names = [*row, *(f"{k}.{inner}" for k, v in row.items() if isinstance(v, dict) for inner in v)]
        layout = _of_names(names, "jsonl")
        if layout is not None:
            return layout
    raise ConfigError("trace format not recognised", f"{path}, line 1: {first[:160]!r}", f"known formats: {KNOWN}")


def _parquet_layout(path: Path) -> Layout:
    import pandas as pd

    try:
        names = [str(name) for name in pd.read_parquet(path).columns]
    except Exception as error:  # pyarrow's, whose classes only store knows, and what damaged bytes make pandas raise
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError("trace file cannot be read as Parquet", path, why) from None
    layout = _of_names(names, "parquet")
    if layout is None:
        raise ConfigError("trace format not recognised", f"{path}, columns {names}", f"known formats: {KNOWN}")
    return layout


def _of_names(names: Sequence[str], kind: str) -> Layout | None:
    have = {name.lower(): name for name in names}

    def has(*wanted: str | None) -> bool:
        return all(name is None or name.lower() in have for name in wanted)

    def first(candidates: Sequence[str]) -> str | None:
        return next((have[name.lower()] for name in candidates if name.lower() in have), None)

    if kind == "csv" and has(_AZURE.prompt, _AZURE.output, _AZURE.time):
        return _AZURE
    if kind == "csv" and has(_BURST.prompt, _BURST.output, _BURST.time):
        session = have.get("session id")
        return _replace_session(session)
    if kind == "jsonl" and has(_BAILIAN.prompt, _BAILIAN.output, _BAILIAN.session, _BAILIAN.parent, _BAILIAN.time):
        return _BAILIAN
    if kind == "jsonl" and has(_MOONCAKE.prompt, _MOONCAKE.output, _MOONCAKE.time, _MOONCAKE.hashes):
        return _MOONCAKE
    prompt, output = first(_PROMPTS), first(_OUTPUTS)
    if prompt is None or output is None:
        return None
    time = first(_TIMES)
    unit = "s" if time == "arrival_s" else "any"
    return Layout(
        f"plain {kind.upper()}", kind, prompt, output, time, unit, first(_SESSIONS), hashes=first(("hash_ids",))
    )


def _replace_session(session: str | None) -> Layout:
    if session is None:
        return _BURST
    return Layout(
        "BurstGPT 3",
        "csv",
        _BURST.prompt,
        _BURST.output,
        _BURST.time,
        session=session,
        zero_is_failure=True,
        ticks=True,
    )
