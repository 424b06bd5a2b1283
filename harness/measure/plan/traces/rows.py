"""Rows of a trace, one after another in bounded memory, each either usable or bad with the place and reason."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from harness.base.documents import parse_json
from harness.base.errors import ConfigError
from harness.measure.plan.traces.formats import Layout, header, open_text, session_files, value_at
from harness.measure.plan.traces.server_log import logged_requests
from harness.measure.plan.traces.texts import text_rows
from harness.measure.plan.traces.values import BadRow, BadValueError, TraceRow, instant_ns, shown, tokens

_MOST_S = 3_200_000_000  # a century
_MOST_HASH = 2**512


def rows_of(path: Path, layout: Layout, tokenizer: str | None) -> Iterator[TraceRow | BadRow]:
    """Every row in the file's order (sessions: in order of time). Raises ConfigError where the file itself is unreadable."""
    match layout.kind:
        case "csv":
            return _csv_rows(path, layout)
        case "jsonl":
            return _json_rows(path, layout)
        case "parquet":
            return _parquet_rows(path, layout)
        case "weka":
            return _session_rows(path)
        case "server-log":
            return _log_rows(path)
        case _:
            return text_rows(path, tokenizer)


def _row(line: int, layout: Layout, get: Callable[[str], Any]) -> TraceRow:
    """Raises BadValueError."""
    output = tokens(layout.output, get(layout.output))
    prompt = tokens(layout.prompt, get(layout.prompt))
    if layout.zero_is_failure and output == 0:
        raise BadValueError(layout.output, 0, "a failed request", failure=True)
    if prompt == 0 or output == 0:
        raise BadValueError(
            layout.output if prompt else layout.prompt, 0, "a request needs at least 1 token in and 1 out"
        )
    time_ns = None if layout.time is None else instant_ns(layout.time, get(layout.time), layout.time_unit)
    if layout.session is None and layout.hashes is None:
        return TraceRow(line, time_ns, prompt, output)
    session, parent, hashes = _links(layout, get)
    return TraceRow(line, time_ns, prompt, output, session, parent, hashes)


def _links(layout: Layout, get: Callable[[str], Any]) -> tuple[Any, Any, Any]:
    session = None if layout.session is None else get(layout.session)
    if isinstance(session, (list, dict)):
        raise BadValueError(str(layout.session), session, "a session is a number or a name")
    parent = None if layout.parent is None else get(layout.parent)
    if isinstance(parent, (list, dict)):
        raise BadValueError(str(layout.parent), parent, "a session is a number or a name")
    hashes = None if layout.hashes is None else get(layout.hashes)
    if hashes is not None and not (
        isinstance(hashes, list)
        and all(isinstance(h, str) or (type(h) is int and -_MOST_HASH < h < _MOST_HASH) for h in hashes)
    ):
        raise BadValueError(str(layout.hashes), hashes, "a list of block hashes is needed")
    return session if session != "" else None, parent, hashes


def _bad(path: Path, line: int, error: BadValueError) -> BadRow:
    return BadRow(f"{path}, line {line}", error.column, shown(error.value), error.reason, error.failure)


# ---------------------------------------------------------------- formats


def _csv_rows(path: Path, layout: Layout) -> Iterator[TraceRow | BadRow]:
    with open_text(path) as text:
        reader = csv.reader(text)
        names = header(path, reader)
        place = {name: i for i, name in enumerate(names)}
        columns = {
            column: place[column.lower()]
            for column in (layout.prompt, layout.output, layout.time, layout.session)
            if column is not None
        }
        width = len(names)
        fields: list[str] = []

        def get(column: str) -> str:
            return fields[columns[column]]

        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(f"{path}, line {reader.line_num}", "", "", f"not CSV: {error}")
                continue
            if len(fields) != width:
                if fields:
                    reason = f"{len(fields)} columns where the header has {width}"
                    yield BadRow(f"{path}, line {reader.line_num}", "", f"{','.join(fields)!r:.80}", reason)
                continue
            try:
                yield _row(reader.line_num, layout, get)
            except BadValueError as error:
                yield _bad(path, reader.line_num, error)


def _json_rows(path: Path, layout: Layout) -> Iterator[TraceRow | BadRow]:
    row: Mapping[str, Any] = {}

    def get(column: str) -> Any:
        return value_at(row, column)

    with open_text(path) as text:
        for line, content in enumerate(text, 1):
            if not content.strip():
                continue
            try:
                row = from_json(content)
            except ValueError as error:
                yield BadRow(f"{path}, line {line}", "", f"{content.strip()!r:.80}", f"not JSON: {error}")
                continue
            if not isinstance(row, dict):
                yield BadRow(f"{path}, line {line}", "", f"{content.strip()!r:.80}", "a JSON object is needed")
                continue
            try:
                yield _row(line, layout, get)
            except BadValueError as error:
                yield _bad(path, line, error)


def _parquet_rows(path: Path, layout: Layout) -> Iterator[TraceRow | BadRow]:
    """Whole columns at once: pandas gives no part of a file. Row 1 is the first."""
    import pandas as pd

    wanted = [c for c in (layout.prompt, layout.output, layout.time, layout.session, layout.hashes) if c is not None]
    frame = pd.read_parquet(path, columns=wanted)
    values = [frame[column].tolist() for column in wanted]
    place = {column: i for i, column in enumerate(wanted)}
    fields: tuple[Any, ...] = ()

    def get(column: str) -> Any:
        value = fields[place[column]]
        return value.tolist() if hasattr(value, "tolist") else value

    for line, fields in enumerate(zip(*values, strict=True), 1):  # noqa: B007 - `get` reads it
        try:
            yield _row(line, layout, get)
        except BadValueError as error:
            yield _bad(path, line, error)


def _session_rows(path: Path) -> Iterator[TraceRow | BadRow]:
    """All sessions begin together, at their recorded t = 0; the rows of all files merged by time."""
    entries: list[tuple[int, int, TraceRow | BadRow]] = []
    sessions = 0
    for file in session_files(path):
        with open_text(file) as text:
            try:
                content = parse_json(text.read())
            except ValueError as error:
                entries.append((-1, len(entries), BadRow(str(file), "", "", f"not JSON: {error}")))
                continue
        requests = content.get("requests") if isinstance(content, dict) else None
        if not isinstance(requests, list):
            entries.append((-1, len(entries), BadRow(str(file), "requests", "", "a list of requests is needed")))
            continue
        scope = 0 if content.get("hash_id_scope") == "global" else len(entries) + 1
        for session in _flattened(requests, 0):
            sessions += 1
            for number, request, start_ns in session:
                row = _session_row(file, number, request, start_ns, sessions, scope)
                entries.append((row.time_ns or 0 if isinstance(row, TraceRow) else -1, len(entries), row))
    entries.sort(key=lambda entry: entry[:2])
    yield from (row for _, _, row in entries)


def _flattened(requests: Sequence[Any], start_ns: int) -> Iterator[list[tuple[int, Any, int]]]:
    """Sessions of one file: its own calls, and for each sub-agent the calls nested in it, with the instant from which
    their `t` counts. A nested `t` below its marker's counts from the marker, else from the session's start."""
    own: list[tuple[int, Any, int]] = []
    for number, request in enumerate(requests, 1):
        if isinstance(request, dict) and isinstance(request.get("requests"), list):
            marker, inner = request.get("t", 0), request["requests"]
            first = inner[0].get("t", 0) if inner and isinstance(inner[0], dict) else 0
            numbers = all(isinstance(t, (int, float)) and abs(t) < _MOST_S for t in (marker, first))
            offset = round(marker * 1e9) if numbers and first < marker else 0
            yield from _flattened(inner, start_ns + offset)
        else:
            own.append((number, request, start_ns))
    if own:
        yield own


def _session_row(file: Path, number: int, request: Any, start_ns: int, session: int, scope: int) -> TraceRow | BadRow:
    where = f"{file}, request {number}"
    if not isinstance(request, dict):
        return BadRow(where, "", shown(request), "a JSON object is needed")
    try:
        prompt, output = tokens("in", request.get("in")), tokens("out", request.get("out"))
        if prompt == 0 or output == 0:
            raise BadValueError("out" if prompt else "in", 0, "a request needs at least 1 token in and 1 out")
        time_ns = start_ns + instant_ns("t", request.get("t"), "s")
        if abs(time_ns) >= _MOST_S * 10**9:
            raise BadValueError("t", request.get("t"), "a time more than a century from the session's start")
        think = request.get("think_time")
        think_ns = None if think is None else instant_ns("think_time", think, "s")
        layout = Layout("", "", hashes="hash_ids")
        hashes = _links(layout, request.get)[2]
    except BadValueError as error:
        return BadRow(where, error.column, shown(error.value), error.reason)
    return TraceRow(number, time_ns, prompt, output, session, None, hashes, scope, think_ns)


def _log_rows(path: Path) -> Iterator[TraceRow | BadRow]:
    """Requests of a vLLM server's log, by arrival."""
    with open_text(path) as text:
        requests = logged_requests(path, text)
    for one in requests:
        where = f"{path}, line {one.line}"
        prompt, output = one.prompt_tokens, one.output_tokens
        if one.cut:
            yield BadRow(where, "token ids", "", "the log shows only the first ids of this request (--max-log-len)")
        elif not prompt:
            yield BadRow(where, "prompt_token_ids", "", "the log does not say how long the prompt was")
        elif not output:
            yield BadRow(where, "max_tokens", f"{output}", "a request needs at least 1 token out")
        else:
            yield TraceRow(one.line, one.time_ns, prompt, output, bound=one.bound)


def unreadable(bad: BadRow) -> ConfigError:
    """The error that a bad row is when it is not to be skipped."""
    column = f", column {bad.column}" if bad.column else ""
    value = f": {bad.value}" if bad.value else ""
    return ConfigError(
        "trace row cannot be used",
        f"{bad.where}{column}{value}",
        f"{bad.reason}; skip_bad=1 (--skip-bad) counts and skips such rows",
    )
