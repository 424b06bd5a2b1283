"""A guess at what a replica can serve where nobody has measured it: arithmetic and memory bandwidth, nothing else.

B requests in a batch, a prompt of i and an answer of o tokens:
    step    = max((weights + B x KV of the context) / (bandwidth x e_b),
                  B x (2 x active parameters + 2 x heads x (d_qk + d_v) x sum over layers of tokens kept) / (FLOP/s x e_f))
    prefill = (2 x active parameters x i + 2 x heads x (d_qk + d_v) x sum over layers of pairs) / (FLOP/s x e_f)
    pairs   = i^2/2; w i - w^2/2 in a layer with a window w < i; each chunk by itself
    rate    = B / (o x step + B x prefill)          time per output token = step + B x prefill / o

d_qk and d_v are the widths of a head's query-key and value products: one and the same but in latent attention, where prefill
unpacks the latent (DeepSeek-V3: 192 and 128) and decoding works on it (576 and 512). States of linear attention and state-space
layers are left out: a few per cent of their matrices.

It knows nothing of kernels, scheduling, queues or interconnects (TP is taken to scale perfectly): an estimate, always marked so,
to decide what to measure, never to sign. Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.base.quantities import Number, above_zero, share, whole
from harness.config.model.memory import GB, fit, sequence_kv_bytes, weight_bytes
from harness.config.model.shape import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A request and the promise it is served under. tpot_s: the longest mean time per output token; None: no limit.

    compute_efficiency, bandwidth_efficiency: shares of the datasheet's peaks that serving is taken to reach (assumptions).
    """

    prompt_tokens: int
    output_tokens: int
    tpot_s: float | None = None
    kv_dtype: str = "auto"
    weight_dtype: str | None = None
    memory_share: Number = 0.9
    compute_efficiency: Number = 0.5
    bandwidth_efficiency: Number = 0.7


@dataclass(frozen=True, slots=True)
class Estimate:
    """One replica over `tensor_parallel` GPUs; `batch` requests at once."""

    tensor_parallel: int
    rps: float
    batch: int
    tpot_s: float


def flops_per_s(gpu_model: str, weight_dtype: str) -> float | None:
    """Peak dense FLOP/s for weights of this dtype; None if the table has no such GPU. FP8 doubles it where the GPU has FP8."""
    book = json.loads((data_dir("configs") / "prices" / "gpu_flops.json").read_bytes())
    if gpu_model not in book["bf16_tflops"]:
        return None
    doubled = weight_dtype == "fp8" and gpu_model not in book["no_fp8"]
    return float(book["bf16_tflops"][gpu_model]) * 1e12 * (2 if doubled else 1)


def prefill_attention_flops(model: ModelShape, tokens: int) -> float:
    """Multiply-adds of queries with keys and of weights with values, counted twice each, over a prompt of `tokens`."""
    whole_prompt = windowed = tokens * tokens / 2
    if model.window is not None and model.window < tokens:
        window = model.window
        if model.chunked:
            windowed = (tokens // window * window * window + (tokens % window) ** 2) / 2
        else:
            windowed = window * tokens - window * window / 2
    pairs = model.full_layers * whole_prompt + model.window_layers * windowed
    return 2 * model.attention_heads * (model.qk_dim + model.v_dim) * pairs


def decode_attention_flops(model: ModelShape, context_tokens: int) -> float:
    """The same for one new token after `context_tokens`; a layer of chunks sees half of its chunk on average."""
    kept = context_tokens
    if model.window is not None and model.window < context_tokens:
        kept = model.window // 2 if model.chunked else model.window
    tokens = model.full_layers * context_tokens + model.window_layers * kept
    return 2 * model.attention_heads * (model.decode_qk_dim + model.decode_v_dim) * tokens


def estimate(
    model: ModelShape, shape: Shape, *, flops: Number, bandwidth_bytes_per_s: Number, memory_bytes: Number, gpus: int
) -> Estimate | None:
    """The best rate of one replica over `gpus` GPUs; None if it does not fit or cannot meet tpot_s. Per-GPU figures in."""
    i, o = whole(shape.prompt_tokens, "prompt tokens", least=1), whole(shape.output_tokens, "output tokens", least=1)
    if i + o > model.max_tokens:
        raise ConfigError(
            f"request is longer than {model.name} takes", f"{i} + {o} tokens", f"at most {model.max_tokens}"
        )
    room = fit(
        model,
        memory_bytes,
        context_tokens=i + o,
        tensor_parallel=gpus,
        memory_share=shape.memory_share,
        kv_dtype=shape.kv_dtype,
        weight_dtype=shape.weight_dtype,
    )
    compute = gpus * above_zero(flops, "FLOP/s") * share(shape.compute_efficiency, "compute efficiency")
    moved = above_zero(bandwidth_bytes_per_s, "bandwidth") * share(shape.bandwidth_efficiency, "bandwidth efficiency")
    context = sequence_kv_bytes(model, i + o // 2, kv_dtype=shape.kv_dtype, tensor_parallel=gpus)
    weights = weight_bytes(model, shape.weight_dtype) / gpus
    prefill = (2 * model.active_parameters * i + prefill_attention_flops(model, i)) / compute
    token = 2 * model.active_parameters + decode_attention_flops(model, i + o // 2)

    def at(batch: int) -> tuple[float, float]:
        step = max((weights + batch * context) / moved, batch * token / compute)
        return batch / (o * step + batch * prefill), step + batch * prefill / o

    low, high = 0, room.sequences
    if shape.tpot_s is not None:
        limit = above_zero(shape.tpot_s, "time per output token (s)")
        while low < high:  # time per token rises with the batch: the largest batch inside the promise
            middle = (low + high + 1) // 2
            low, high = (middle, high) if at(middle)[1] <= limit else (low, middle - 1)
    if high == 0:
        return None
    rps, tpot = at(high)
    return Estimate(gpus, rps, high, tpot)


def best_estimate(
    model: ModelShape,
    shape: Shape,
    gpu_model: str,
    gpu_count: int,
    *,
    memory_gb_each: Number,
    bandwidth_gb_per_s_each: Number,
) -> tuple[float, str] | str:
    """(rps of the whole instance, how it is cut into replicas), or why there is none.

    TP over 1, 2, 4, 8.. GPUs; an instance holds floor(GPUs / TP) replicas; the best of them is taken.
    """
    flops = flops_per_s(gpu_model, shape.weight_dtype or model.weight_dtype)
    if flops is None:
        return f"no FLOP/s known for {gpu_model}"
    best: tuple[float, str] | None = None
    tp = 1
    while tp <= gpu_count:
        if model.attention_heads % tp == 0:  # vLLM refuses others, latent attention included
            one = estimate(
                model,
                shape,
                flops=flops,
                bandwidth_bytes_per_s=above_zero(bandwidth_gb_per_s_each, "bandwidth (GB/s)") * GB,
                memory_bytes=above_zero(memory_gb_each, "GPU memory (GB)") * GB,
                gpus=tp,
            )
            if one is not None:
                total = gpu_count // tp * one.rps
                if best is None or total > best[0]:
                    best = (total, f"{gpu_count // tp} x TP{tp}, batch {one.batch}, TPOT {one.tpot_s * 1000:.1f} ms")
        tp *= 2
    if best is not None:
        return best
    smallest = weight_bytes(model, shape.weight_dtype) / GB
    have = float(memory_gb_each) * gpu_count * float(shape.memory_share)
    if smallest > have:
        return f"weights of {smallest:.0f} GB do not fit in {have:.0f} GB"
    return "no batch fits and meets the time per output token"
