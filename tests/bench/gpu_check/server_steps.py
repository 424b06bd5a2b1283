"""Steps that measure the 8B dummy's server: with and without FlashInfer, the ladder, beside `vllm bench serve`, its capacity."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import median
from typing import Any

from harness.config.target import TargetSpec
from harness.measure.observe.boards.inventory import boards
from harness.measure.targets import Target, embedded, open_target
from tests.bench.gpu_check import experiments
from tests.bench.gpu_check.step import Figures, Place, Step

# ---------------------------------------------------------------- FlashInfer

WITH, WITHOUT = "flashinfer", "flash-attn"
_BACKENDS = {WITH: "FLASHINFER", WITHOUT: "FLASH_ATTN"}
_ALIKE = 0.25


def _flashinfer(place: Place) -> Figures:
    targets = [
        experiments.target(
            place, name, {"attention-backend": backend}, {"VLLM_USE_FLASHINFER_SAMPLER": "1" if name == WITH else "0"}
        )
        for name, backend in _BACKENDS.items()
    ]
    loads = (
        [{"concurrency": [1, 8], "duration_s": 10}] if place.rehearse else [{"concurrency": [1, 64], "duration_s": 30}]
    )
    out = experiments.harness_run(experiments.write(place, "flashinfer", targets, loads), 1500)
    found = experiments.rows(out)
    fastest = {name: max(row["output_tps"] or 0 for row in found if row["target"] == name) for name in _BACKENDS}
    ready = {
        name: next((r["startup"].get("ready_s") for r in found if r["target"] == name), None) for name in _BACKENDS
    }
    said = ", ".join(f"{name} {fastest[name]:,.0f} tok/s (up after {_seconds(ready[name])})" for name in _BACKENDS)
    return {"said": said, "runs": found, "output_tps": fastest}


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} s"


def check_flashinfer(found: Mapping[str, Any]) -> list[str]:
    """Both ran what was asked for, with CUDA graphs, and about as fast."""
    wrong = experiments.doubtful(found["runs"])
    for name, backend in _BACKENDS.items():
        said: Mapping[str, str] = next((row["checks"] for row in found["runs"] if row["target"] == name), {})
        attention, graphs = said.get("attention_backend", "not told"), said.get("cuda_graphs", "not told")
        if attention.partition(",")[0] != backend:
            wrong.append(f"{name}: attention backend {attention}, asked for {backend}")
        if not graphs.startswith("captured"):
            wrong.append(f"{name}: CUDA graphs: {graphs}")
    with_it, without = found["output_tps"][WITH], found["output_tps"][WITHOUT]
    if not with_it or not without or abs(with_it / without - 1) > _ALIKE:
        wrong.append(f"output throughput with FlashInfer {with_it:,.0f} tok/s, without {without:,.0f}")
    return wrong


# ---------------------------------------------------------------- the ladder

FOUR, TWICE = "4 warm-ups", "2c warm-ups"
# The plan's own requests in one round at the cell's concurrency, as before warm-up went by the load.
_ONLY_FOUR = "from harness.measure import warm_up; warm_up.PER_SLOT, warm_up.ROUNDS = 0, 1; "
_LADDER = [{"concurrency": [1, 4, 16, 64], "duration_s": 20}, {"concurrency": [256, 1024], "requests_per_slot": 6}]
_FALLS, _COLD_FASTER = 0.97, 1.05


def _ladder(place: Place) -> Figures:
    loads = [{"concurrency": [1, 2, 8], "duration_s": 10}] if place.rehearse else _LADDER
    path = experiments.write(place, "ladder", [experiments.target(place, "gpu")], loads, warmup_requests=4)
    found: Figures = {}
    # The cold one first: kernels that one server compiled stand in a cache for the next.
    for name, before in ((FOUR, _ONLY_FOUR), (TWICE, "")):
        out = experiments.harness_run(path, 1500, out=path.parent / name.replace(" ", "-"), before=before)
        found[name] = experiments.rows(out)
    found["said"] = "; ".join(f"{name}: {_rungs(found[name])} tok/s" for name in (FOUR, TWICE))
    return found


def _rungs(runs: list[dict[str, Any]]) -> str:
    ladder = sorted(runs, key=lambda row: row["concurrency"])
    return ", ".join(f"c{row['concurrency']} {row['output_tps'] or 0:,.0f}" for row in ladder)


def check_ladder(found: Mapping[str, Any]) -> list[str]:
    """Warm cells are VALID and compile nothing, throughput rises up to its knee, and a cold cell is no faster than a warm one."""
    warm = sorted(found[TWICE], key=lambda row: row["concurrency"])
    wrong = experiments.doubtful(warm)
    rates = [row["output_tps"] or 0.0 for row in warm]
    knee = rates.index(max(rates))
    for at, (low, high) in enumerate(pairwise(rates[: knee + 1])):
        if high < _FALLS * low:
            wrong.append(
                f"c{warm[at + 1]['concurrency']}: {high:,.0f} tok/s, less than {low:,.0f} at c{warm[at]['concurrency']}, below the knee"
            )
    cold = {row["concurrency"]: row["output_tps"] or 0.0 for row in found[FOUR]}
    for row, rate in zip(warm, rates, strict=True):
        if cold.get(row["concurrency"], 0.0) > _COLD_FASTER * rate:
            wrong.append(
                f"c{row['concurrency']}: {cold[row['concurrency']]:,.0f} tok/s with 4 warm-ups, {rate:,.0f} with 2c"
            )
    return wrong


# ---------------------------------------------------------------- clients in rotation

OURS, PLAIN, THEIRS, EAGER = "ours", "ours, plain body", "vllm bench serve", "ours, eager server"
_SAME_TPS, _ROUNDS = 0.03, 3
_TWO_SERVERS_BYTES = 60 * 10**9  # two of 8B in bf16, each with room for 64 sequences
_SHARE = 0.42  # of the board's memory, for each of the two


def _servers(place: Place) -> dict[str, dict[str, Any]]:
    """The servers that stand at the same time: the one that is measured, and an eager one where there is room for it."""
    sizes = [board.usable_bytes for board in boards(visible=True)]
    if not place.rehearse and (not sizes or (sizes[0] or 0) < _TWO_SERVERS_BYTES):
        return {"graphs": experiments.target(place, "graphs")}
    share = {"gpu-memory-utilization": _SHARE}
    return {
        "graphs": experiments.target(place, "graphs", share),
        "eager": experiments.target(place, "eager", {**share, "enforce-eager": True}),
    }


def _clients(place: Place) -> Figures:
    from tests.bench import bench_vllm_serve as bench

    folder = place.folder("clients") / f"runs-{len(list(place.folder('clients').glob('runs-*')))}"
    folder.mkdir()
    prompt, output = (int(n) for n in experiments.workload(place).removeprefix("fixed:").split("x"))
    size = {"concurrency": 4, "requests": 16} if place.rehearse else {"concurrency": 64, "requests": 256}
    args = argparse.Namespace(prompt=prompt, output=output, **size)
    with contextlib.ExitStack() as stack:
        up: dict[str, Target] = {}
        for name, data in _servers(place).items():
            spec = TargetSpec.model_validate(data)
            up[name] = stack.enter_context(open_target(spec, folder / f"{name}.log", place.say))
        short = str(experiments.target(place, "x")["model"])
        tokenizer = (
            str(embedded.ensure(short.removeprefix("embedded:"), place.say)) if short.startswith("embedded:") else short
        )
        measures: dict[str, Callable[[int], dict[str, float]]] = {
            OURS: lambda n: bench.ours(up["graphs"], args, 1000 + n, folder, "wire"),
            PLAIN: lambda n: bench.ours(up["graphs"], args, 4000 + n, folder, "wire", "plain"),
            THEIRS: lambda n: bench.theirs(up["graphs"], args, 2000 + n, folder, tokenizer),
        }
        if "eager" in up:
            eager = folder / "eager"
            eager.mkdir()
            measures[EAGER] = lambda n: bench.ours(up["eager"], args, 5000 + n, eager, "wire")
        for measure in (measures[OURS], *([measures[EAGER]] if EAGER in measures else [])):
            measure(99)  # a server's own first-time work belongs to nobody
        rounds = [_round(measures, number) for number in range(_ROUNDS)]
    middle = {
        name: {metric: median(seen[name][metric] for seen in rounds) for metric in ("output_tps", "ttft_ms", "tpot_ms")}
        for name in measures
    }
    said = "; ".join(
        f"{name}: {m['output_tps']:,.0f} tok/s, TTFT {m['ttft_ms']:.1f} ms, TPOT {m['tpot_ms']:.2f} ms"
        for name, m in middle.items()
    )
    return {"said": said, "rounds": rounds, "medians": middle}


def _round(measures: Mapping[str, Callable[[int], dict[str, float]]], number: int) -> dict[str, dict[str, float]]:
    """Everybody once; who goes first rotates, so that drift meets all."""
    names = list(measures)
    first = number % len(names)
    return {name: measures[name](number) for name in names[first:] + names[:first]}


def check_clients(found: Mapping[str, Any]) -> list[str]:
    """The same server gives all clients the same throughput, and graphs are no slower than eager."""
    tps = {name: m["output_tps"] for name, m in found["medians"].items()}
    wrong = [
        f"{one} is {tps[one] / tps[other] - 1:+.1%} off {other} in output throughput"
        for one, other in ((OURS, THEIRS), (PLAIN, OURS))
        if abs(tps[one] / tps[other] - 1) > _SAME_TPS
    ]
    if EAGER not in tps:
        wrong.append("no room for an eager server beside the measured one: eager was not measured")
    elif found["medians"][OURS]["tpot_ms"] > 1.02 * found["medians"][EAGER]["tpot_ms"]:
        wrong.append("a token takes longer with CUDA graphs than without")
    return wrong


# ---------------------------------------------------------------- capacity

_FALLBACK_RPS = 8.0


def _capacity(place: Place) -> Figures:
    best_rps = max((row["request_rps"] or 0 for row in place.figures("ladder").get(TWICE, ())), default=0.0)
    start_rps = round(0.6 * best_rps, 2) or _FALLBACK_RPS
    probe_s, probes = ([5, 10], 3) if place.rehearse else ([20, 60], 6)
    load = {
        "start_rps": start_rps,
        "min_rps": start_rps / 16,
        "max_rps": start_rps * 16,
        "probe_s": probe_s,
        "probes": probes,
    }
    path = experiments.write(place, "capacity", [experiments.target(place, "gpu")], [{"capacity": load}])
    out = experiments.harness_run(path, 1200)
    from harness.judge.runs import analyse
    from harness.report.capacity import headline

    result = next(iter(analyse(out).capacities)).result
    told = {name: getattr(result, name) for name in ("state", "capacity_rps", "low_rps", "high_rps", "seconds", "why")}
    return {"said": headline(result), "ladder_rps": best_rps or None, "start_rps": start_rps, **told}


def check_capacity(found: Mapping[str, Any]) -> list[str]:
    """A capacity was found, inside its interval, and is no higher than what a closed loop served."""
    if found["state"] != "found":
        return [f"the search ended {found['state']}: {found['why']}"]
    wrong = []
    if not found["low_rps"] <= found["capacity_rps"] <= found["high_rps"]:
        wrong.append(
            f"{found['capacity_rps']} requests/s is outside its interval {found['low_rps']} to {found['high_rps']}"
        )
    ladder_rps = found["ladder_rps"]
    if ladder_rps and not 0.2 * ladder_rps <= found["capacity_rps"] <= 1.1 * ladder_rps:
        wrong.append(f"{found['capacity_rps']:.2f} requests/s, with {ladder_rps:.2f} served at the top of the ladder")
    return wrong


STEPS = (
    Step(
        "flashinfer",
        "harness run of the 8B dummy with attention backend FLASHINFER and its sampler, and with FLASH_ATTN; 1 and 64 streams",
        f"both are VALID, ran the backend asked for with CUDA graphs, and are within {_ALIKE:.0%} of each other",
        7,
        ("server", "flashinfer"),
        _flashinfer,
        check_flashinfer,
    ),
    Step(
        "ladder",
        "harness run from 1 to 1,024 streams, once with 4 warm-ups a cell, once with 2 a stream, each on a fresh server",
        "warm cells are VALID (nothing compiles in a window), throughput rises to its knee, cold cells are no faster than warm ones",
        11,
        ("server",),
        _ladder,
        check_ladder,
    ),
    Step(
        "clients",
        f"the same server by harness, harness with plain bodies and vllm bench serve, and an eager one, in rotation, {_ROUNDS} rounds",
        f"output throughput within {_SAME_TPS:.0%} of each other, CUDA graphs no slower than eager",
        7,
        ("server",),
        _clients,
        check_clients,
    ),
    Step(
        "capacity",
        "harness run of a capacity search under the quickstart's promise, from 0.6 of the ladder's best rate",
        "a capacity is found, inside its interval, between 0.2 and 1.1 of what the ladder served",
        6,
        ("server",),
        _capacity,
        check_capacity,
    ),
)
