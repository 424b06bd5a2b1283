"""The same real server and workload, measured by our two drivers, with exact and with plain requests, and by `vllm bench serve`.

They take turns. All send the same kind of prompts (words from one list, exactly PROMPT tokens), never the same prompt twice, and
ask for exactly OUTPUT tokens. Throughput is compared over the whole phase (first send to last token), which is what
`vllm bench serve` divides by; TTFT and TPOT by their medians. `api_ms` is the CPU time of the server's API process per output token:
what a body costs there, told on a busy machine too. Of our runs it holds warm-up and what the server is asked about its words, so
compare it between them, and with many --requests.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from harness import pipeline
from harness.config.experiment import parse_experiment
from harness.config.target import TargetSpec
from harness.measure.observe import vllm_metrics
from harness.measure.plan.drawing import draw
from harness.measure.plan.prompts import prompts
from harness.measure.run import Stop
from harness.measure.targets import Target, embedded, open_target
from harness.measure.targets.interpreter import CPU_BUILD
from harness.records import Load
from tests.campaign.campaign_values import Quiet

EXACT, PLAIN, SDK, THEIRS = "wire", "wire, plain body", "sdk", "vllm bench serve"


def ours(target: Target, args, seed: int, folder: Path, driver: str, body: str = "exact") -> dict[str, float]:
    """One run by the harness; its whole-phase throughput and medians over all ok requests."""
    from harness.judge.summary import summarise
    from harness.store.reader import read_run

    spec = parse_experiment(
        {
            "experiment": "beside-vllm-bench",
            "seed": seed,
            "targets": [
                {
                    "name": "same",
                    "kind": "adopt",
                    "url": target.endpoint.base_url,
                    "model": target.endpoint.model,
                    "body": body,
                }
            ],
            "workloads": [f"fixed:{args.prompt}x{args.output}"],
            "loads": [{"concurrency": [args.concurrency], "requests": args.requests}],
            "warmup_requests": args.concurrency,
            "driver": driver,
        },
        "bench",
    )
    run_dir = folder / f"{driver}-{seed}"
    pipeline.measure_one(spec, run_dir, Quiet(), Stop())
    run = read_run(run_dir)
    summary = summarise(run)
    rows = run.requests[(run.requests.phase == "measure") & (run.requests.outcome == "ok")]
    ttft = (rows.first_token_ns - rows.sent_ns).astype(float) / 1e9
    tpot = (rows.last_token_ns - rows.first_token_ns).astype(float) / 1e9 / (rows.output_tokens.astype(float) - 1)
    if len(rows) != args.requests:
        raise SystemExit(f"only {len(rows)} of {args.requests} requests were ok: {summary.outcomes}")
    return {
        "output_tps": float(summary.scalars["output_tps_whole"]),
        "ttft_ms": float(ttft.median() * 1e3),
        "tpot_ms": float(tpot.median() * 1e3),
        "cpu_share": float(summary.scalars.get("harness_cpu_share") or "nan"),
    }


def theirs(target: Target, args, seed: int, folder: Path, tokenizer: str) -> dict[str, float]:
    """One run of `vllm bench serve` over prompts of the same making."""
    count = args.requests
    drawn, _ = draw(
        f"fixed:{args.prompt}x{args.output}", Load(concurrency=args.concurrency), requests=count, duration_s=None,
        seed=seed, warmup_requests=args.concurrency, context_limit_tokens=None,
    )  # fmt: skip
    words = dict(zip(target.vocabulary.token_ids or (), target.vocabulary.words, strict=True))
    data = folder / f"prompts-{seed}.jsonl"
    with data.open("w") as out:
        for prompt in prompts(drawn.requests, target.vocabulary, "completions"):
            text = prompt.text or "".join(f" {words[i]}" for i in prompt.token_ids or ())
            out.write(json.dumps({"prompt": text, "output_tokens": args.output}) + "\n")
    result = folder / f"theirs-{seed}.json"
    command = [
        sys.executable, "-c", CPU_BUILD, "bench", "serve", "--backend", "openai",
        "--base-url", target.endpoint.base_url.removesuffix("/v1"), "--endpoint", "/v1/completions",
        "--model", target.endpoint.model, "--tokenizer", tokenizer, "--dataset-name", "custom", "--dataset-path", str(data),
        "--custom-output-len", str(args.output), "--skip-chat-template", "--num-prompts", str(count), "--disable-shuffle",
        "--max-concurrency", str(args.concurrency), "--ignore-eos", "--temperature", "0", "--ready-check-timeout-sec", "0",
        "--save-result", "--result-filename", str(result), "--disable-tqdm", "--seed", str(seed % 2**31),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode or not result.exists():
        raise SystemExit(
            f"vllm bench serve failed (exit status {done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    seen = json.loads(result.read_text())
    if seen["completed"] != count or seen["total_output_tokens"] != count * args.output:
        raise SystemExit(
            f"vllm bench serve: {seen['completed']} of {count} requests, {seen['total_output_tokens']} tokens"
        )
    return {
        "output_tps": seen["output_throughput"],
        "ttft_ms": seen["median_ttft_ms"],
        "tpot_ms": seen["median_tpot_ms"],
        "prompt_tokens": seen["total_input_tokens"],
    }


def api_used(target: Target) -> tuple[float, float]:
    """(CPU seconds of the API process, tokens generated) since the server's start."""
    assert target.server
    assert target.info.metrics_url
    times = psutil.Process(target.server.pid).cpu_times()
    with vllm_metrics.open_client(target.info.metrics_url) as http:
        tokens = vllm_metrics.told(vllm_metrics.scrape(http, target.info.metrics_url), "output_tokens")
    return times.user + times.system, float(tokens or 0)


def with_cpu(target: Target, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a client measured, and `api_ms`."""
    cpu_s, tokens = api_used(target)
    seen = measure()
    cpu_after_s, tokens_after = api_used(target)
    return seen | {"api_ms": (cpu_after_s - cpu_s) / (tokens_after - tokens) * 1e3}


METRICS: Sequence[str] = ("output_tps", "ttft_ms", "tpot_ms", "api_ms")


def table(rounds: list[dict[str, dict[str, float]]]) -> str:
    """Per metric and client: median and spread, and the median of the rounds' ratios to `vllm bench serve`; then plain to exact."""
    lines = [
        f"{'metric':<12}{'client':<18}{'median':>10}{'spread':>9}   ratio to vllm bench serve: median (min .. max)"
    ]
    for metric in METRICS:
        for client in rounds[0]:
            values = [seen[client][metric] for seen in rounds]
            ratio = sorted(seen[client][metric] / seen[THEIRS][metric] for seen in rounds)
            spread = (max(values) - min(values)) / statistics.median(values)
            lines.append(
                f"{metric:<12}{client:<18}{statistics.median(values):>10.2f}{spread:>9.1%}"
                f"   {statistics.median(ratio):.4f} ({ratio[0]:.4f} .. {ratio[-1]:.4f})"
            )
    for metric in METRICS:
        ratio = sorted(seen[PLAIN][metric] / seen[EXACT][metric] for seen in rounds)
        lines.append(
            f"{metric:<12}plain / exact body: {statistics.median(ratio):.4f} ({ratio[0]:.4f} .. {ratio[-1]:.4f})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded:smollm2-135m")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    spec = TargetSpec(
        name="server", kind="vllm", model=args.model, flags={"max-model-len": 2048, "max-num-seqs": 64, "enforce-eager": True},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-vllm-serve-") as name:
        folder = Path(name)
        with open_target(spec, folder / "server.log", lambda text: print(text, file=sys.stderr)) as target:
            short = args.model.removeprefix("embedded:")
            tokenizer = args.model if short == args.model else str(embedded.ensure(short, lambda text: None))
            ours(target, args, 1, folder, "wire")  # the server's own first-time work belongs to nobody
            rounds = []
            for number in range(args.rounds):
                clients: list[tuple[str, Callable[[], dict[str, float]]]] = [
                    (EXACT, lambda n=number: ours(target, args, 1000 + n, folder, "wire")),
                    (PLAIN, lambda n=number: ours(target, args, 4000 + n, folder, "wire", "plain")),
                    (SDK, lambda n=number: ours(target, args, 3000 + n, folder, "sdk")),
                    (THEIRS, lambda n=number: theirs(target, args, 2000 + n, folder, tokenizer)),
                ]
                first = number % len(clients)  # who goes first rotates, so that drift meets all
                seen = {name: with_cpu(target, measure) for name, measure in clients[first:] + clients[:first]}
                rounds.append({name: seen[name] for name, _ in clients})
                print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
    print(
        f"{args.model}, fixed:{args.prompt}x{args.output}, concurrency {args.concurrency}, {args.requests} requests, {args.rounds} rounds"
    )
    print(table(rounds))


if __name__ == "__main__":
    main()
