"""Broken configs of every kind: experiments, presets, scenarios, tables, machines, demand curves, models, prices, command-line numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.base.documents import dump_yaml, load_yaml
from harness.base.files import data_dir
from tests.fuzz import stored, values

Case = tuple[str, list[str], bool]  # what was broken, command line, must it be refused

EXPERIMENT = stored.EXPERIMENT | {
    "description": "x", "repetitions": 2, "warmup_requests": 1, "context_limit_tokens": 4000, "driver": "wire", "workers": 1,
    "timeouts": {"connect_s": 1.0, "first_token_s": 10.0, "idle_s": 10.0, "total_s": 60.0}, "observe": {"gpu": "auto", "gpu_hz": 10.0,
    "server_hz": 1.0, "host_hz": 2.0}, "order": "blocked-random", "restart": "never", "max_hours": 1.0, "min_free_gib": 0.0,
    "cool_down": {"margin_c": 5.0, "margin_mhz": 150.0, "timeout_s": 10.0}, "notify": {"webhook_env": "X", "command": ["true"], "mail": None},
    "loads": [
        {"concurrency": [1, 2], "requests_per_slot": 2}, {"rate": [4.0, 0.5], "requests": 6}, {"rate": [2.0], "duration_s": 3.0, "arrivals": "gamma:0.5"},
        {"arrivals": "onoff:1:2:0.1", "rate": [3.0], "requests": 5}, {"arrivals": "step:1,2", "rate": [3.5], "duration_s": 4.0},
        {"capacity": {"start_rps": 4.0, "min_rps": 1.0, "max_rps": 8.0, "probe_s": [5.0, 10.0], "probes": 3, "tolerance": 0.1}},
    ],
    "workloads": ["fixed:16x8", "lognormal:64x16:0.5", "agent?think=0.5"],
}  # fmt: skip
SERVERS = EXPERIMENT | {
    "targets": [
        {"name": "ours", "kind": "vllm", "model": "embedded:tiny", "flags": {"max-num-seqs": 8, "cudagraph-capture-sizes": [1, 2, 4]}, "env": {"X": "1"},
         "python": "/usr/bin/python3", "gpus": [0, 1], "ready_silence_s": 300, "start_timeout_s": 900, "port": 8123, "body": "plain",
         "hardware": {"name": "box", "usd_per_hour": 6.88, "source": "list", "as_of": "2026-11-01", "gpu_model": "H100-SXM", "gpu_count": 1}},
        {"name": "box", "kind": "vllm", "model": "embedded:tiny", "image": "vllm/vllm-openai:v0.32.0", "container": "podman",
         "hardware": {"name": "made up", "usd_per_hour": 0.1, "source": "an example", "as_of": "2026-11-01", "example": True}},
        {"name": "theirs", "kind": "adopt", "model": "m", "url": "http://127.0.0.1:9/v1", "gpus": ["GPU-0a1b"], "reset_prefix_cache": True,
         "telemetry_url": "http://127.0.0.1:9400/metrics", "metrics_urls": ["http://127.0.0.1:9/metrics"], "hardware": "aws/g5.12xlarge"},
        {"name": "paid", "kind": "hosted", "model": "m", "url": "http://127.0.0.1:9/v1", "api": "chat", "api_key_env": "SOME_KEY"},
    ],
    "loads": [{"concurrency": [1], "requests": 4}],
    "workloads": ["fixed:16x8"],
}  # fmt: skip
ARRIVALS = [
    "gamma:0", "gamma:1e9", "gamma:99999999999", "onoff:0.000001:1", "onoff:1:9999999999", "onoff:1:0", "diurnal:m-large:0.0000001", "diurnal:x",
    "ramp:0-0", "ramp:1-99999999999999999999", "step:0,0", "step:" + "9" * 400, "trace:0.0000000001", "trace", "preset", "", "poisson:", "constant",
    "onoff:0.001:0.001", "onoff:0.000001:99999:0", "gamma:0.005", "diurnal:m-large",
]  # fmt: skip
WORKLOADS = [
    "fixed:0x1", "fixed:99999999x9", "fixed:9999999x9999999", "lognormal:1x1:99", "lognormal:5x5:0", "uniform:9-1x1-2", "chat?system=0", "chat?think=nan",
    "chat?limit=5", "agent?think=1e300", "agent?think=999999999", "fixed:8x8?system=10000000", "x?y", "?", "/", "/dev/null", ".", "\u0000", "é" * 300,
    "fixed:10000000x10000000", "batch", "reasoning", "long-chat?system=1e3",
]  # fmt: skip
DEMAND = {"rps": [1.0, 2.0, 3.0, 0.5], "step_s": 3600, "name": "d", "source": "s", "peak_hour_to_mean": 2.0}
OWNED = {
    "capex_usd": 32_000, "years": 4, "interest": 0.1, "power_kw": 1.73, "power_billing": "metered", "usd_per_kwh": 0.08, "pue": 1.3,
    "colocation_usd_per_kw_month": 150, "maintenance_usd_per_year": 500, "residual_usd": 1_000, "availability": 0.98,
}  # fmt: skip
ANY = (
    "seed",
    "check",
    "flags",
    "shape",
    "published",
    "env",
    "quantile",
)  # keys under which a number may be almost anything
FLEET = ["cost", "fleet", "--capacity-rps", "5"]
NUMBERS = ["1e308", "1e-308", "-1", "0", "nan", "inf", "1e999", "9" * 400, "1e15", "1e-9", "x", ""]
COMMANDS = {
    "cost fleet": {"--capacity-rps": "5", "--replica-usd-per-hour": "2", "--mean-rps": "20", "--headroom": "0.7", "--spares": "1",
                   "--min-replicas": "1", "--cold-start-s": "300", "--billing-s": "60", "--labour-fte": "1", "--storage-usd-per-month": "1",
                   "--power-kw": "1", "--usd-per-kwh": "0.1", "--saturated-rps": "9"},
    "cost breakeven": {"--capacity-rps": "5", "--replica-usd-per-hour": "2", "--hosted-usd-per-request": "0.001", "--spares": "1",
                       "--fixed-usd-per-hour": "1", "--hosted-minimum-usd-per-month": "10", "--at-rps": "3", "--headroom": "0.8"},
    "cost hybrid": {"--capacity-rps": "5", "--replica-usd-per-hour": "2", "--hosted-usd-per-request": "0.001", "--mean-rps": "20",
                    "--demand": "m-large", "--reserved-usd-per-hour": "1", "--spot-usd-per-hour": "0.5", "--interruptions-per-hour": "0.1",
                    "--lost-hours": "0.2", "--never-spot": "1", "--own-usd-per-request": "0.0001", "--spares": "1", "--billing-s": "60"},
    "cost memory": {"": "qwen3-8b", "--context": "4096", "--tensor-parallel": "1", "--memory-share": "0.9", "--gpu-memory-gb": "80",
                    "--kv-cache-gb": "10", "--block-tokens": "16", "--kv-dtype": "auto", "--weight-dtype": "fp8"},
    "cost instances": {"--rps": "10", "--model": "qwen3-8b", "--prompt-tokens": "100", "--output-tokens": "50", "--tpot-ms": "50", "--steady": "0.5",
                       "--headroom": "0.7", "--spares": "1", "--top": "3", "--interruptions-per-hour": "0.1", "--lost-hours": "0.2",
                       "--measured": "aws/g5.12xlarge=5", "--at-most": "aws/g5.12xlarge=5", "--commitment": "aws/g5.12xlarge=3"},
    "plan": {"--workload": "chat", "--rate": "2", "--requests": "20", "--seed": "1", "--warmup": "1", "--context-limit": "4000",
             "--arrivals": "poisson", "--usd-per-hour": "1", "--utilisation": "0.5", "--workers": "1", "--slo": "tpot_s=0.1"},
}  # fmt: skip


def _kinds() -> dict[str, list[tuple[Any, Callable[[Path], list[str]], str]]]:
    """Kind -> (data, command of its file, name of the file)."""
    configs, presets = data_dir("configs"), data_dir("workloads")
    scenarios = [load_yaml(p) for p in sorted((configs / "scenarios").glob("*.yaml"))]
    tables = [load_yaml(p) for p in sorted((configs / "experiments" / "tables").glob("*.yaml"))]
    shapes = [json.loads(p.read_text()) for p in sorted((configs / "models").glob("*.json"))]
    return {
        "experiment": [
            (data, lambda p: ["run", str(p), "--dry-run", "--out", str(p.with_suffix(""))], "e.yaml") for data in (EXPERIMENT, SERVERS)
        ],
        "preset": [
            (load_yaml(p), lambda p, verb=verb: ["workloads", verb, str(p)], "p.yaml")
            for p in sorted(presets.glob("*.yaml"))
            for verb in ("show", "sample")
        ],
        "preset sent": [
            (load_yaml(p), lambda p: ["plan", "--workload", str(p), "--arrivals", "preset", "--rate", "2", "--requests", "9", "--out", f"{p}.d"], "p.yaml")
            for p in (presets / f"{name}.yaml" for name in ("chat", "agent", "reasoning", "batch"))
        ],
        "scenario": [
            (data, lambda p, verb=verb: ["cost", verb, str(p), "--json"], "s.yaml") for data in scenarios for verb in ("scenario", "decide")
        ],
        "table": [(data, lambda p: ["reproduce", str(p), "--dry-run"], "t.yaml") for data in tables],
        "machine": [(OWNED, lambda p: [*FLEET, "--mean-rps", "9", "--owned", str(p)], "o.yaml")],
        "demand": [(DEMAND, lambda p: [*FLEET, "--replica-usd-per-hour", "2", "--demand", str(p)], "d.yaml")],
        "model": [(data, lambda p: ["cost", "memory", str(p)], "m.json") for data in shapes],
    }  # fmt: skip


def _text_changes(text: str, draw: random.Random) -> tuple[str, str, bool]:
    """(what, text, must it be refused) of changes that YAML's data has no place for."""
    lines = text.splitlines()
    number = draw.randrange(len(lines))
    deep = draw.choice([100, 5_000, 100_000])
    bomb = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 8)}]\n" for i in range(9)
    )
    flat = [i for i, line in enumerate(lines) if ":" in line and not line.lstrip().startswith(("-", "#", "'", '"'))]
    twice = draw.choice(flat) if flat else 0
    return draw.choice(
        [
            (
                "a key twice",
                "\n".join([*lines[: twice + 1], *lines[twice:]]),
                bool(flat) and lines[twice].split(":", 1)[1].strip() not in ("", "|", ">"),
            ),
            ("nested deep", f"x: {'[' * deep}{']' * deep}\n{text}", True),
            ("mappings deep", "{a: " * deep + "}" * deep, True),
            ("a bomb of aliases", bomb + text, True),
            ("an alias of itself", f"x: &x [*x]\n{text}", True),
            ("an integer of 5,000 digits", f"{text}\nx: {'9' * 5_000}", True),
            ("a tag", f"{text}\nx: !!python/object/apply:os.system [true]", True),
            ("two documents", f"{text}\n---\n{text}", True),
            ("a tab", "\n".join([*lines[:number], "\t" + lines[number], *lines[number + 1 :]]), False),
            ("a line less", "\n".join([*lines[:number], *lines[number + 1 :]]), False),
            ("empty", "", True),
            ("large", text + "\n# " + "x" * 3_000_000, True),
            ("binary", text.replace("a", "\x00", 1), "a" in text),
            ("cut", text[: draw.randrange(len(text))], False),
        ]
    )


def _values_of(place: values.Place, old: Any, draw: random.Random) -> Any:
    if place[-1] == "arrivals" and draw.random() < 0.7:
        return draw.choice(ARRIVALS)
    if place[0] == "workloads" and draw.random() < 0.7:
        return draw.choice(WORKLOADS)
    number = isinstance(old, (int, float)) and not isinstance(old, bool)
    return draw.choice(
        [1e300, 1e-300, -1, 0, 10**18, -0.0, 10**9, "190:20:30", 2**63, 1.5, True, "1e400", None, []]
        if number and draw.random() < 0.7
        else values.WRONG
    )


def _nonsense(place: values.Place, old: Any, value: Any) -> bool:
    """A number far outside all that its key may hold."""
    number = isinstance(old, (int, float)) and not isinstance(old, bool)
    free = any(str(key).startswith(ANY) for key in place)
    return (
        number
        and not free
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (abs(value) >= 1e18 or value < 0)
    )


def cases(folder: Path, draw: random.Random) -> Iterator[Case]:
    """Without end: a kind, a file of it, and one to three changes."""
    kinds = _kinds()
    names = [*kinds, "experiment", "experiment", "scenario", "command"]
    while True:
        name = draw.choice(names)
        if name == "command":
            yield _command(folder, draw)
            continue
        data, words, file = draw.choice(kinds[name])
        path = folder / file
        if draw.random() < 0.25:
            text = json.dumps(data, indent=1) if path.suffix == ".json" else dump_yaml(data, sort_keys=False)
            what, text, refused = _text_changes(text, draw)
            refused &= path.suffix != ".json" or what in ("empty", "nested deep", "mappings deep")
            path.write_text(text, encoding="utf-8")
            yield f"{name}: {what}", words(path), refused
            continue
        place = draw.choice([*values.places(data)])
        old = values.at(data, place)
        value = _values_of(place, old, draw)
        if draw.random() < 0.08:
            made, value = values.drop(data, place), "(gone)"
        else:
            made = values.put(data, place, value)
        text = json.dumps(made) if path.suffix == ".json" else _dumped(made)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        yield (
            f"{name}: {'.'.join(map(str, place))} = {value!r:.60}",
            words(path),
            path.suffix != ".json" and _nonsense(place, old, value),
        )


def _dumped(data: Any) -> str:
    return dump_yaml(data, sort_keys=False, allow_unicode=False)


def _command(folder: Path, draw: random.Random) -> Case:
    name = draw.choice([*COMMANDS])
    words = dict(COMMANDS[name])
    option = draw.choice([key for key in words if key])
    words[option] = draw.choice(
        [*NUMBERS, *(ARRIVALS if option == "--arrivals" else WORKLOADS if option == "--workload" else [])]
    )
    line = [word for key, value in words.items() for word in ((key, value) if key else (value,))]
    line += ["--out", str(folder / "planned")] if name == "plan" else []
    refused = option not in ("--kv-dtype", "--weight-dtype", "--demand", "--workload", "--slo", "--arrivals") and words[
        option
    ] in ("nan", "inf", "-1", "1e999", "x", "")
    return f"command: {option} {words[option]:.20}", [*name.split(), *line], refused
