"""Broken traces of every format: cells replaced, lines damaged, bytes damaged; read whole, and with bad rows skipped."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import values

CELLS = [
    "", "x", "-1", "0", "nan", "inf", "-inf", "1e999999999", "1e-999999999", "1e400", "9" * 5_000, "9" * 30, "1e18", "1_0", "0x10", "5.5", "true", "null",
    "2026-13-45 00:00:00", "9999-12-31 23:59:59", "0001-01-01 00:00:00", "2024-05-12 00:00:00+99:99", "2024-05-12 25:00:00", "1:2:3", "\x00", '"',
    "é", "\u0665", "=1+1", "[1]", "{}", "sNaN", " 5 ",
]  # fmt: skip
JSON_CELLS = [
    *values.WRONG, 1e17, 2**62, 2**63, 2**70, -(2**70), float("inf"), float("nan"), [2**70], [1.5], [[]], [None], [True], {"x": 1}, "2024-05-12 00:00:00",
]  # fmt: skip
CSVS = {
    "azure": (["TIMESTAMP", "ContextTokens", "GeneratedTokens"], [[f"2024-05-12 00:00:0{i}.5", "100", "20"] for i in range(10)]),
    "burst": (["Timestamp", "Session ID", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"], [[str(5 * i), str(i % 3), "m", "472", str(i % 4), "490", "c"] for i in range(10)]),
    "plain": (["arrival_s", "prompt_tokens", "output_tokens", "session"], [[f"{i / 2}", f"{10 + i}", "5", "ab"[i % 2]] for i in range(10)]),
    "quantiles": (["quantile", "prompt_tokens", "output_tokens"], [["0", "1", "1"], ["0.5", "10", "9"], ["1", "100", "50"]]),
}  # fmt: skip
_CHAT = {"messages": [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "yes"}]}
ROWS = {
    "mooncake": [{"timestamp": 1000 * i, "input_length": 1024, "output_length": 20, "hash_ids": [1, 2 + i]} for i in range(10)],
    "bailian": [
        {"chat_id": i, "parent_chat_id": i - 1, "timestamp": i * 1.5, "input_length": 32, "output_length": 20, "type": "t", "turn": 1, "hash_ids": [1, 2]}
        for i in range(10)
    ],
    "usage": [{"created": 1_700_000_000 + i, "usage": {"prompt_tokens": 5, "completion_tokens": 6}, "session_id": "a"} for i in range(10)],
    "chats": [_CHAT, _CHAT],
}  # fmt: skip
WEKA = {
    "id": "s", "hash_id_scope": "local", "block_size": 64,
    "requests": [
        {"t": 0, "in": 100, "out": 20, "hash_ids": [1, 2], "think_time": 0.5}, {"t": 1.5, "requests": [{"t": 2, "in": 50, "out": 5, "hash_ids": [3]}]},
        {"t": 5, "in": 130, "out": 20, "hash_ids": [1, 2, 3]},
    ],
}  # fmt: skip
SERVEGEN = {
    "0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{1: 0.25, 9: 0.75}"},
    "600": {"input_tokens": "{7: 1.0}", "output_tokens": "{3: 1.0}"},
}
LOG = "\n".join(
    line
    for i in range(3)
    for line in (
        f"(APIServer pid=1) INFO 11-25 10:00:0{i} [logger.py:39] Received request cmpl-{i}: params: SamplingParams(n=1, ignore_eos=True, max_tokens=16, min_tokens=16), lora_request: None.",
        f"(APIServer pid=1) DEBUG 11-25 10:00:0{i} [logger.py:49] Request cmpl-{i} details: prompt: 'x', prompt_token_ids: [1, 2, 3], prompt_embeds shape: None.",
        f"(APIServer pid=1) INFO 11-25 10:00:0{i} [logger.py:60] Generated response cmpl-{i}: output: 'x', output_token_ids: [1, 2], finish_reason: length",
    )
)


def _text(draw: random.Random) -> tuple[str, str, str]:
    """(what, file name, text): a format with one cell replaced."""
    kind = draw.choice([*CSVS, "mooncake", "bailian", "usage", *ROWS, "weka", "weka", "servegen", "log"])
    if kind in CSVS:
        header, rows = CSVS[kind]
        rows = [list(row) for row in rows]
        row, column = draw.randrange(-1, len(rows)), draw.randrange(len(header))
        made = draw.choice(CELLS)
        if row >= 0:
            rows[row][column] = made
        else:
            header = [*header[:column], draw.choice([made, *header]), *header[column + 1 :]]
        return (
            f"{kind}: row {row}, {header[column]!r:.20} = {made!r:.30}",
            f"{kind}.csv",
            "\n".join(",".join(r) for r in [header, *rows]),
        )
    if kind in ROWS:
        rows, at = ROWS[kind], draw.randrange(len(ROWS[kind]))
        place, made = draw.choice([*values.places(rows[at])]), draw.choice(JSON_CELLS)
        changed = values.put(rows[at], place, made) if draw.random() < 0.9 else values.drop(rows[at], place)
        lines = [json.dumps(row) for row in [*rows[:at], changed, *rows[at + 1 :]]]
        return f"{kind}: row {at}, {place} = {made!r:.30}", f"{kind}.jsonl", "\n".join(lines)
    if kind == "log":
        words = LOG.split(" ")
        words[draw.randrange(len(words))] = made = draw.choice(CELLS)
        return f"log: {made!r:.30}", "server.log", " ".join(words)
    data = WEKA if kind == "weka" else SERVEGEN
    place, made = (
        draw.choice([*values.places(data)]),
        draw.choice(
            [*JSON_CELLS, "{1: 1e400}", "{-1: 1.0}", "{1e999: 1.0}", "{'a': 1}", "{1: nan}", "(" * 300, "{10**9: 1.0}"]
        ),
    )
    if kind == "servegen" and draw.random() < 0.3:
        data = data | {draw.choice(["nan", "inf", "1e-300", "1e300", "-5", "x", "0.1"]): data["0"]}
    return (
        f"{kind}: {place} = {made!r:.30}",
        "chunk-0-dataset.json" if kind == "servegen" else "s.json",
        json.dumps(values.put(data, place, made)),
    )


def _rates(draw: random.Random) -> str:
    cells = [["0", "5", "1", "gamma", "1", "1"], ["600", "3", "1", "gamma", "1", "1"]]
    cells[draw.randrange(2)][draw.randrange(6)] = draw.choice(CELLS)
    return "\n".join(",".join(row) for row in cells)


def cases(folder: Path, draw: random.Random) -> Iterator[tuple[str, list[str], bool]]:
    """(what, command line, False): without end."""
    while True:
        what, name, text = _text(draw)
        raw = text.encode("utf-8", "replace")
        if draw.random() < 0.3:
            how, raw = values.damaged(raw, draw)
            what = f"{what.partition(':')[0]}: {how}"
        if draw.random() < 0.1:
            raw, what = gzip.compress(raw), f"{what}, gzip"
            raw = raw[: draw.randrange(len(raw))] if draw.random() < 0.5 else raw
        path = folder / name
        path.write_bytes(raw)
        if name.startswith("chunk"):
            (folder / "chunk-0-trace.csv").write_text(_rates(draw))
        options = (
            ""
            if name.startswith(("chunk", "quantiles"))
            else draw.choice(
                [
                    "",
                    "?skip_bad=1",
                    "?skip_bad=1",
                    "?skip_bad=1&gaps=keep",
                    "?skip_bad=1&scale=0.5",
                    "?skip_bad=1&sample=0.5&gaps=keep",
                ]
            )
        )
        sent = ["plan", "--workload", f"{path}{options}", "--out", str(folder / "planned"), "--seed", "1"]
        own = ["--arrivals", draw.choice(["trace", "trace", "trace:0.001", "trace:1000"])]
        of_distribution = name.startswith(("chunk", "quantiles"))
        command = draw.choice(
            [
                ["workloads", "show", f"{path}{options}"],
                [*sent, "--rate", "3", "--requests", "2"] if of_distribution else [*sent, *own],
                [*sent, "--arrivals", "preset", "--rate", "1", "--requests", "2"] if of_distribution else [*sent, *own],
                [*sent, "--concurrency", "2", "--requests", "2"],
                ["workloads", "fit", f"{path}{options}"]
                if draw.random() < 0.2
                else [*sent, "--rate", "2", "--requests", "2"],
            ]
        )
        if name.endswith(".csv") and draw.random() < 0.05:
            command = ["cost", "fleet", "--capacity-rps", "5", "--replica-usd-per-hour", "2", "--demand", f"{path}"]
        yield what, command, False
