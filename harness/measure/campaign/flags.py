"""Flags read back from a server's log: what vLLM says it was given, and what it made of it.

vLLM prints `non-default args: {..}` (what its parser understood) and `Initializing a V1 LLM engine .. with config: ..`
(what the engine runs with). What /metrics shows is compared in `targets`; this covers the rest. How many API servers run is told by
neither: the parser repeats the number that it was given, so the processes that were started are counted.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_GIVEN = re.compile(r"non-default args: (\{.*\})")
_ENGINE = re.compile(r"Initializing a V1 LLM engine \([^)]*\) with config: (.*)")
_STARTED = re.compile(r"Started (\d+) API server processes")
_HEAD_BYTES = 1_000_000
# The engine's words for flags that it names otherwise.
_ENGINE_NAMES = {"max_model_len": "max_seq_len"}
_ENGINE_SHOWS = (
    "max_model_len", "dtype", "quantization", "enforce_eager", "kv_cache_dtype", "tensor_parallel_size", "seed",
    "pipeline_parallel_size", "data_parallel_size", "load_format", "enable_prefix_caching", "enable_chunked_prefill",
)  # fmt: skip
_OURS = frozenset({"model", "served_model_name", "enable_prompt_tokens_details"})
_SERVERS = "api_server_count"
DIFFERS = "(differs)"


def read_back(flags: Mapping[str, Any], log: Path | None) -> dict[str, str]:
    """Flags asked for (normal names, as in TargetInfo.flags) -> what the log says of each; `(differs)` ends those that the server
    runs otherwise. A flag that the log says nothing of is a default, or not shown: it is left out."""
    text = _head(log)
    given, engine = _given(text), _ENGINE.search(text)
    seen: dict[str, str] = {}
    for raw, value in flags.items():
        if raw in _OURS or "." in raw:
            continue
        name, wanted = (raw[3:], not value) if raw.startswith("no_") and isinstance(value, bool) else (raw, value)
        told = _of_engine(engine.group(1), name) if engine else None
        said: list[tuple[str, Any]] = [("engine", told)] if told is not None else []
        said += [("parsed", given[name])] if name in given else []
        said += [("running", running)] if name == _SERVERS and (running := _api_servers(text)) is not None else []
        if said:
            differs = any(not _same(name, wanted, word) for _, word in said)
            words = ", ".join(f"{who} {word}" for who, word in said)
            seen[f"flag {raw}"] = f"asked {value}, log: {words}" + (f" {DIFFERS}" if differs else "")
    ranks = _ranks(flags)
    if _SERVERS not in flags and ranks > 1 and (running := _api_servers(text)) is not None:
        seen["API servers"] = f"{ranks} ranks, {running} running" + (f" {DIFFERS}" if running != ranks else "")
    return seen


def _ranks(flags: Mapping[str, Any]) -> int:
    """API servers that `vllm serve` starts by itself: one for each data-parallel rank, where it balances between them itself."""
    outside = {"data_parallel_external_lb", "data_parallel_rank", "data_parallel_hybrid_lb", "data_parallel_start_rank",
               "data_parallel_multi_port_external_lb"}  # fmt: skip
    size = str(flags.get("data_parallel_size", 1))
    return int(size) if size.isdigit() and not any(flags.get(name) for name in outside) else 1


def _api_servers(text: str) -> int | None:
    """API server processes that the log says were started; None where it says nothing of a server."""
    if started := _STARTED.search(text):
        return int(started.group(1))
    return 1 if _GIVEN.search(text) else None


def _head(log: Path | None) -> str:
    if log is None:
        return ""
    try:
        with log.open("rb") as file:
            return file.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _given(text: str) -> dict[str, Any]:
    found = _GIVEN.search(text)
    try:
        return dict(ast.literal_eval(found.group(1))) if found else {}
    except (ValueError, SyntaxError, TypeError):  # holds an object that is no literal
        return {}


def _of_engine(config: str, name: str) -> str | None:
    if name not in _ENGINE_SHOWS:
        return None
    found = re.search(rf"(?:^|[ (]){_ENGINE_NAMES.get(name, name)}=([^,]*)", config)
    return found.group(1).strip("'\"") if found else None


def _same(name: str, asked: Any, seen: Any) -> bool:
    """Whether the server's word is the one asked for; `auto` leaves the choice to the server. Lists are equal if all their values are;
    one that vLLM keeps as a text has commas."""
    if isinstance(asked, Sequence) and not isinstance(asked, str):
        values = seen.split(",") if isinstance(seen, str) else seen
        return isinstance(values, list | tuple) and list(map(str, values)) == list(map(str, asked))
    if isinstance(seen, list | tuple):
        return len(seen) == 1 and _same(name, asked, seen[0])
    wanted, told = str(asked).lower(), str(seen).lower().removeprefix("torch.")
    if wanted in ("auto", told):
        return True
    if name == "max_model_len" and wanted[-1:] in {"k", "m", "g"}:  # vLLM reads 8k, and 8K as 8,192
        return True
    if name == "dtype":
        return {wanted, told} <= {"half", "float16"} or {wanted, told} <= {"float", "float32"}
    try:
        return float(wanted) == float(told)
    except ValueError:
        return False
