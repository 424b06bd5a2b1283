"""Traces planned by the harness beside three lines of pandas, and what a million rows cost.

`HARNESS_TRACES=FOLDER python -m tests.bench.bench_workloads` for the first, `.. --million` for the second. (Presets beside their
sources: `harness workloads check`.) Formats of which the folder holds no file are written here, made up, in that format.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from harness.base import clock
from harness.measure.plan.drawing import draw
from harness.records import Load
from tests.bench.bench_prefixes import write_bailian

Frame = tuple["pd.Series[float]", "pd.Series[float]", "pd.Series[float]"]  # prompt, output, seconds


def azure(path: Path) -> Frame:
    frame = pd.read_csv(path, parse_dates=["TIMESTAMP"])
    seconds = (frame["TIMESTAMP"] - frame["TIMESTAMP"].iloc[0]).dt.total_seconds()
    return frame["ContextTokens"], frame["GeneratedTokens"], seconds


def burst(path: Path) -> Frame:
    frame = pd.read_csv(path)
    frame = frame[frame["Response tokens"] > 0]
    return frame["Request tokens"], frame["Response tokens"], frame["Timestamp"] - frame["Timestamp"].iloc[0]


def lines(path: Path, unit_s: float) -> Frame:
    frame = pd.read_json(path, lines=True)
    return frame["input_length"], frame["output_length"], (frame["timestamp"] - frame["timestamp"].iloc[0]) * unit_s


def sessions(folder: Path) -> Frame:
    calls = [call for file in sorted(folder.glob("*.json")) for call in json.loads(file.read_text())["requests"]]
    frame = pd.DataFrame(calls).sort_values("t", kind="stable")
    return frame["in"], frame["out"], frame["t"]


def plain(path: Path) -> Frame:
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    return frame["prompt_tokens"], frame["output_tokens"], frame["arrival_s"] - frame["arrival_s"].iloc[0]


def made_up(folder: Path, rows: int = 5000) -> dict[str, tuple[Path, Callable[[Path], Frame]]]:
    """Files of formats that are not in the folder of native ones."""
    rnd = random.Random(11)
    second, table = 0.0, []
    for _ in range(rows):
        second += rnd.expovariate(2.0)
        table.append((second, rnd.randint(1, 4000), rnd.randint(1, 800), f"s{rnd.randrange(300)}"))
    azure_2024, old, new = folder / "azure24.csv", folder / "burst1.csv", folder / "burst3.csv"
    stamp = pd.Timestamp("2024-05-12", tz="UTC")
    rows_2024 = [f"{stamp + pd.Timedelta(seconds=t)},{p},{o}" for t, p, o, _ in table]
    azure_2024.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows_2024]) + "\n")
    fails = [(t, p, o if rnd.random() > 0.08 else 0, s) for t, p, o, s in table]
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    old.write_text("\n".join([head, *(f"{int(t)},GPT-4,{p},{o},{p + o},API log" for t, p, o, _ in fails)]) + "\n")
    head = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
    new.write_text("\n".join([head, *(f"{int(t)},{s},1.0,GPT-4,{p},{o},{p + o},x" for t, p, o, s in fails)]) + "\n")
    own = pd.DataFrame({"prompt_tokens": [r[1] for r in table], "output_tokens": [r[2] for r in table],
                        "arrival_s": [round(r[0], 6) for r in table]})  # fmt: skip
    own.to_csv(folder / "own.csv", index=False)
    own.to_parquet(folder / "own.parquet")
    write_bailian(folder / "bailian.jsonl", 1000, 3)
    return {
        "Azure 2024, made up": (azure_2024, azure),
        "BurstGPT 1, made up": (old, burst),
        "BurstGPT 3, made up": (new, burst),
        "Qwen-Bailian, made up": (folder / "bailian.jsonl", lambda path: lines(path, 1.0)),
        "plain CSV": (folder / "own.csv", plain),
        "plain Parquet": (folder / "own.parquet", plain),
    }


def native(folder: Path | None) -> dict[str, tuple[Path, Callable[[Path], Frame]]]:
    if folder is None:
        return {}
    return {
        "Azure 2023 conv": (folder / "AzureLLMInferenceTrace_conv.csv", azure),
        "Mooncake 600 s": (folder / "mooncake_conversation_first600s.jsonl", lambda path: lines(path, 0.001)),
        "sessions (WEKA)": (folder / "weka", sessions),
    }


def compared(name: str, path: Path, by_pandas: Callable[[Path], Frame]) -> str:
    """One line: rows, means and p99 of both, the greatest difference of a length, and of a time."""
    drawn, notes = draw(str(path), Load(arrivals="trace"), requests=None, duration_s=None, seed=1, warmup_requests=0,
                             context_limit_tokens=None)  # fmt: skip
    prompt, output, seconds = (np.asarray(column, np.float64) for column in by_pandas(path))
    ours = np.array([(r.target_prompt_tokens, r.target_output_tokens, r.scheduled_ns / 1e9) for r in drawn.requests if r.scheduled_ns is not None])  # fmt: skip
    same = len(ours) == len(prompt)
    off = max(abs(ours[:, 0] - prompt).max(), abs(ours[:, 1] - output).max()) if same else float("nan")
    late = (ours[:, 2] - seconds).max() if same else float("nan")
    early = (seconds - ours[:, 2]).max() if same else float("nan")
    ticks = next((note.partition("ticks of ")[2].partition(" and")[0] for note in notes if "ticks of" in note), "-")
    return (f"{name:<24} {len(ours):>7,} {len(prompt):>7,} {ours[:, 0].mean():>10,.2f} {prompt.mean():>10,.2f} "
            f"{np.quantile(ours[:, 1], 0.99):>9,.1f} {np.quantile(output, 0.99):>9,.1f} {off:>7g} {max(late, early) * 1e3:>11.4f} {ticks:>6}")  # fmt: skip


_MILLION = """
import resource, sys
from harness.base import clock
from harness.measure.plan.drawing import draw
from harness.records import Load
begun = clock.monotonic_ns()
load = Load(arrivals="trace") if sys.argv[2] == "trace" else Load(concurrency=8)
count = None if sys.argv[2] == "trace" else 1_000_000
drawn, _ = draw(sys.argv[1], load, requests=count, duration_s=None, seed=1, warmup_requests=8,
                     context_limit_tokens=None)
wall = (clock.monotonic_ns() - begun) / clock.NS
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"{len(drawn.requests):>10,} {wall:>8.1f} {used.ru_utime + used.ru_stime:>8.1f} {used.ru_maxrss / 1024:>9.0f} {drawn.sha256[:16]}")
"""


def million(say: Callable[[str], None]) -> None:
    """A plan of a million rows of each table preset and of a trace, each in a process of its own."""
    say(f"{'workload':<16} {'rows':>10} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9} digest")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.csv"
        rnd = random.Random(5)
        with path.open("w") as out:
            out.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
            for i in range(1_000_000):
                ms = i * 3
                out.write(f"2024-05-12 {ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}000+00:00,"
                          f"{rnd.randint(1, 9000)},{rnd.randint(1, 900)}\n")  # fmt: skip
        for name, kind in (
            (str(path), "trace"),
            *((n, "preset") for n in ("chat", "long-chat", "reasoning", "agent", "agent-128k")),
        ):
            done = subprocess.run(
                [sys.executable, "-c", _MILLION, name, kind], capture_output=True, text=True, check=True
            )
            say(f"{Path(name).stem if kind == 'trace' else name:<16} {done.stdout.rstrip()}")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_workloads", description=__doc__)
    parser.add_argument("--million", action="store_true")
    given = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, flush=True)

    if given.million:
        million(say)
        return 0
    folder = os.environ.get("HARNESS_TRACES")
    begun = clock.monotonic_ns()
    say(
        f"{'trace':<24} {'rows':>7} {'pandas':>7} {'prompt mean':>10} {'pandas':>9} {'out p99':>9} {'pandas':>9} {'length':>7} {'time off ms':>11} {'ticks':>6}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name, (path, by_pandas) in (native(Path(folder) if folder else None) | made_up(Path(scratch))).items():
            say(compared(name, path, by_pandas))
    say(f"length: greatest difference of a prompt or output; where times stand in ticks they are spread inside them. "
        f"{(clock.monotonic_ns() - begun) / clock.NS:.0f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
