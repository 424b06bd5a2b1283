"""The metrics page of a vLLM 0.32 server whose counters are known, and that of a DCGM exporter beside it."""

from __future__ import annotations

import math

PROMPT, CACHED, OUTPUT = 100, 30, 50  # tokens of every request
LE_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, math.inf)
SHARES = (0.2, 0.6, 0.9, 0.95, 0.99, 1.0, 1.0)  # of the requests at or below each bound
_COUNTERS = {
    "vllm:prompt_tokens_total": PROMPT, "vllm:generation_tokens_total": OUTPUT, "vllm:num_preemptions_total": 0.01,
    "vllm:prefix_cache_queries_total": PROMPT, "vllm:prefix_cache_hits_total": CACHED,
    "vllm:prompt_tokens_cached_total": CACHED, "vllm:spec_decode_num_draft_tokens_total": 60,
    "vllm:spec_decode_num_accepted_tokens_total": 42,
}  # fmt: skip
_HISTOGRAMS = (
    "vllm:time_to_first_token_seconds", "vllm:request_time_per_output_token_seconds", "vllm:request_queue_time_seconds",
    "vllm:e2e_request_latency_seconds",
)  # fmt: skip


def page(requests: int, *, started_s: float = 1.7e9, model: str = "tiny", tenant: str = "") -> str:
    """What the server says when so many requests have ended since `started_s`."""
    labels = f'model_name="{model}",engine="0"' + (f',user="{tenant}"' if tenant else "")
    lines = ["# TYPE process_start_time_seconds gauge", f"process_start_time_seconds {started_s}"]
    for name, each in _COUNTERS.items():
        lines += [f"# TYPE {name.removesuffix('_total')} counter", f"{name}{{{labels}}} {float(each * requests)}"]
    lines += ["# TYPE vllm:request_success counter"]
    for reason, value in (("stop", requests), ("length", 0), ("abort", 0)):
        lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(value)}')
    for name, value in (("running", 3), ("waiting", 1)):
        lines += [f"# TYPE vllm:num_requests_{name} gauge", f"vllm:num_requests_{name}{{{labels}}} {float(value)}"]
    lines += ["# TYPE vllm:kv_cache_usage_perc gauge", f"vllm:kv_cache_usage_perc{{{labels}}} 0.4"]
    for name in _HISTOGRAMS:
        lines.append(f"# TYPE {name} histogram")
        for le, share in zip(LE_S, SHARES, strict=True):
            bound = "+Inf" if math.isinf(le) else repr(le)
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {float(math.floor(share * requests))}')
        lines += [f"{name}_count{{{labels}}} {float(requests)}", f"{name}_sum{{{labels}}} {0.1 * requests}"]
    return "\n".join(lines) + "\n"


def dcgm_page(energy_j: float) -> str:
    """One board's energy and power."""
    labels = 'gpu="0",UUID="GPU-1",modelName="NVIDIA H100 80GB HBM3"'
    energy, power = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_POWER_USAGE"
    return f"# TYPE {energy} counter\n{energy}{{{labels}}} {energy_j * 1000}\n# TYPE {power} gauge\n{power}{{{labels}}} 300\n"
