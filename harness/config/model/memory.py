"""GPU memory of a model: weights, KV cache per token, how many sequences fit, and how many blocks vLLM will make of it.

    KV of a token and layer = 2 x KV heads x head dimension x bytes           (grouped-query attention; heads shared out over TP)
                            = (kv_lora_rank + qk_rope_head_dim) x bytes       (multi-head latent attention; whole on every TP rank)

A layer with a sliding window keeps its last `window` tokens only, one of chunks those since its chunk began, a state layer (linear
attention, state space) blocks that each hold one state, whatever the length. Weights are counted once per replica, not per request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.base.errors import ConfigError, nearest
from harness.base.quantities import Number, above_zero, at_least_zero, share, whole
from harness.config.model.shape import ModelShape

GB = 10**9

# Bytes per weight; the 4-bit ones with their scales (one of 16 bits and a 4-bit zero point per 128; MXFP4, NVFP4: 8 bits per 32, 16).
WEIGHT_BYTES = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5 + 2.5 / 128,
    "mxfp4": 0.5 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
}
# Bytes per KV element; per-tensor scales are not per element. vLLM stores fp8 caches as bytes.
KV_BYTES = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "half": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "fp8_inc": 1,
    "int8": 1,
}


def _bytes_of(table: Mapping[str, float], dtype: str, what: str) -> float:
    if dtype not in table:
        raise ConfigError(f"{what} is not known", dtype, nearest(dtype, table, f"known: {', '.join(table)}"))
    return table[dtype]


def weight_bytes(model: ModelShape, weight_dtype: str | None = None) -> float:
    """Bytes of all weights, as its config says they are stored; or all layers' matrices brought to `weight_dtype` (MXFP4: the
    feed-forward ones only), the rest at 2 bytes."""
    if weight_dtype is None:
        return model.weight_bytes
    dtype = weight_dtype
    each = _bytes_of(WEIGHT_BYTES, dtype, "weight dtype")
    plain = max(each, 2.0)
    attention = plain if dtype == "mxfp4" else each
    return (
        (model.embedding_parameters + model.other_parameters) * plain
        + model.attention_parameters * attention
        + model.mlp_parameters * each
    )


def kv_dtype_bytes(model: ModelShape, kv_dtype: str) -> int:
    """Bytes of one KV element; `auto` is the model's own dtype. Raises ConfigError for a dtype that is not modelled."""
    return int(_bytes_of(KV_BYTES, model.dtype if kv_dtype == "auto" else kv_dtype, "KV cache dtype"))


def layer_token_bytes(model: ModelShape, kv_dtype: str = "auto", tensor_parallel: int = 1) -> int:
    """KV bytes of one token in one layer on one GPU. Heads are shared out over GPUs, at least one each, as vLLM does."""
    tp = whole(tensor_parallel, "tensor parallel size", least=1)
    size = kv_dtype_bytes(model, kv_dtype)
    if model.attention_heads % tp:
        raise ConfigError("heads do not divide over the GPUs", f"{model.attention_heads} by {tp}", "choose a divisor")
    if model.latent_dim is not None:
        return model.latent_dim * size
    return 2 * max(1, model.kv_heads // tp) * model.head_dim * size


def kv_bytes_per_token(model: ModelShape, kv_dtype: str = "auto", tensor_parallel: int = 1) -> int:
    """KV bytes that one more token takes on one GPU while no window is full, states apart. Llama-2-70B: 327,680."""
    return (model.full_layers + model.window_layers) * layer_token_bytes(model, kv_dtype, tensor_parallel)


def state_layer_bytes(model: ModelShape, tensor_parallel: int) -> int:
    """Bytes of one state layer's state of one sequence on one GPU; heads are shared out over GPUs."""
    return -(-model.state_bytes // whole(tensor_parallel, "tensor parallel size", least=1))


def block_tokens_of(model: ModelShape, block_tokens: int, kv_dtype: str = "auto", tensor_parallel: int = 1) -> int:
    """Tokens of a block as vLLM makes it: for a model with states, the asked size so many times that a block holds a state."""
    block = whole(block_tokens, "block size (tokens)", least=1)
    if not model.state_layers:
        return block
    block_bytes = block * layer_token_bytes(model, kv_dtype, tensor_parallel)
    return block * -(-state_layer_bytes(model, tensor_parallel) // block_bytes)


def sequence_kv_bytes(
    model: ModelShape, tokens: int, *, kv_dtype: str = "auto", tensor_parallel: int = 1, block_tokens: int = 16
) -> int:
    """KV bytes of a sequence of `tokens` on one GPU, in whole blocks; a window layer holds its window and, because it need not
    begin where a block does, one block more; a layer of chunks its longest chunk; a state layer the blocks of its states."""
    block, length = block_tokens_of(model, block_tokens, kv_dtype, tensor_parallel), whole(tokens, "tokens", least=1)
    full = -(-length // block)
    kept = full
    if model.window is not None:
        kept = min(full, -(-min(length, model.window) // block) + (0 if model.chunked else 1))
    blocks = model.full_layers * full + model.window_layers * kept + model.state_layers * model.state_blocks
    return blocks * block * layer_token_bytes(model, kv_dtype, tensor_parallel)


@dataclass(frozen=True, slots=True)
class Fit:
    """One replica over `tensor_parallel` GPUs, bytes per GPU. sequences: how many of the asked context fit at once; 0: none;
    kv_tokens: of all of them."""

    tensor_parallel: int
    weights_per_gpu: float
    kv_per_gpu: float
    sequences: int
    kv_tokens: int


def fit(
    model: ModelShape,
    gpu_memory_bytes: Number,
    *,
    context_tokens: int,
    tensor_parallel: int = 1,
    memory_share: Number = 0.9,
    overhead_bytes: Number = 2 * GB,
    kv_dtype: str = "auto",
    weight_dtype: str | None = None,
    block_tokens: int = 16,
) -> Fit:
    """What is left for the KV cache on each GPU: memory x share (vLLM's gpu_memory_utilization) - weights / TP - overhead.

    overhead_bytes: activations and graphs, per GPU: declared, 2 GB unless measured.
    """
    memory = above_zero(gpu_memory_bytes, "GPU memory (bytes)") * share(memory_share, "share of GPU memory")
    weights = weight_bytes(model, weight_dtype) / tensor_parallel
    left = memory - weights - at_least_zero(overhead_bytes, "overhead (bytes)")
    one = sequence_kv_bytes(
        model, context_tokens, kv_dtype=kv_dtype, tensor_parallel=tensor_parallel, block_tokens=block_tokens
    )
    room = max(0.0, left)
    sequences = int(room // one)
    return Fit(tensor_parallel, weights, room, sequences, sequences * context_tokens)


@dataclass(frozen=True, slots=True)
class KvBlocks:
    """What vLLM says at its start: num_gpu_blocks, and the tokens that its log calls the KV cache size.

    max_concurrency: how many requests of `max_model_len` tokens fit at once. bytes_per_block: of all layers that share a block id.
    """

    num_blocks: int
    bytes_per_block: int
    size_tokens: int
    max_concurrency: float


def _group_layers(model: ModelShape) -> tuple[int, int, int, int]:
    """(layers per group, groups with full attention, with a window, with states): vLLM's rule for block ids that layers share."""
    kinds = (model.full_layers, model.window_layers, model.state_layers)
    fewest, most = min(k for k in kinds if k), max(kinds)
    size = most if most < 1.5 * fewest else fewest
    full, window, state = (-(-k // size) for k in kinds)
    return size, full, window, state


def predict_kv_blocks(
    model: ModelShape,
    kv_cache_bytes: int,
    block_tokens: int,
    kv_dtype: str = "auto",
    *,
    tensor_parallel: int = 1,
    max_model_len: int | None = None,
    max_in_flight_tokens: int = 8192,
    prefix_caching: bool = True,
) -> KvBlocks:
    """How many KV blocks vLLM (v1, read at 0.32) makes of `kv_cache_bytes` per GPU.

    blocks = bytes // (layers per group x block x bytes of a token in a layer). All layers share a block id if they are of one
    kind; layers of several kinds are put in groups of equal size, and each group draws its own ids from the same pool. A request
    of `max_model_len` needs ceil(len / block) blocks of each full group, ceil(min(window - 1 + in flight, len) / block) + 1 of
    each window group, ceil(min(chunk + in flight, len) / block) of each chunk group, and state_blocks (without prefix caching 1)
    of each state group. Not modelled: speculative decoding, pipeline and context parallelism, packed sparse-attention caches.
    """
    block = block_tokens_of(model, block_tokens, kv_dtype, tensor_parallel)
    cache_bytes = whole(kv_cache_bytes, "KV cache (bytes)", least=1)
    length = whole(max_model_len or model.max_tokens, "max model length (tokens)", least=1)
    size, full_groups, window_groups, state_groups = _group_layers(model)
    per_block = size * block * layer_token_bytes(model, kv_dtype, tensor_parallel)
    blocks = cache_bytes // per_block
    needed = full_groups * -(-length // block) + state_groups * (model.state_blocks if prefix_caching else 1)
    if model.window is not None:
        seen = model.window - (0 if model.chunked else 1) + max_in_flight_tokens
        needed += window_groups * (-(-min(seen, length) // block) + (0 if model.chunked else 1))
    concurrency = blocks / needed
    return KvBlocks(blocks, per_block, int(concurrency * length), concurrency)
