"""The numbers of a model's config.json that memory and arithmetic depend on: layers, heads, windows, parameters.

Linear-attention and state-space layers are not modelled: such a config is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import data_dir
from harness.cost.quantities import nearest, whole
from harness.errors import ConfigError

_UNMODELLED = ("linear_attention", "mamba", "recurrent", "chunked_attention", "conv")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory needs of a model. window_layers: how many layers have the sliding window of `window` tokens.

    latent_dim: kv_lora_rank + qk_rope_head_dim of latent attention, else None. Parameters: embedding (and output head),
    attention, feed-forward (all experts), other (norms, routers, biases); active_parameters: used by one token.
    """

    name: str
    layers: int
    window_layers: int
    window: int | None
    kv_heads: int
    head_dim: int
    latent_dim: int | None
    attention_heads: int
    max_tokens: int
    dtype: str
    weight_dtype: str
    embedding_parameters: int
    attention_parameters: int
    mlp_parameters: int
    other_parameters: int
    active_parameters: int

    @property
    def parameters(self) -> int:
        return self.embedding_parameters + self.attention_parameters + self.mlp_parameters + self.other_parameters


def models() -> dict[str, Path]:
    """Configs that come with the harness, by name."""
    return {path.stem: path for path in sorted((data_dir("configs") / "models").glob("*.json"))}


def load_model(name: str) -> ModelShape:
    """A model by name, a config.json, or a directory that holds one. Raises ConfigError (the nearest names are given)."""
    known = models()
    path = Path(name)
    if name in known:
        path = known[name]
    elif path.is_dir():
        path = path / "config.json"
    elif not path.is_file():
        raise ConfigError("no such model", name, nearest(name, known, f"a config.json, or one of {', '.join(known)}"))
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("model config cannot be read", path, f"{type(error).__name__}: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError("model config is not a mapping", path, "give the model's config.json")
    shown = path.stem if path.stem != "config" else path.parent.name or "config.json"
    return model_shape(data, shown)


def _count(config: Mapping[str, Any], key: str, name: str) -> int:
    if config.get(key) is None:
        raise ConfigError(
            f"model {name}: config has no {key}", "missing", "give the config.json of a decoder-only model"
        )
    return whole(config[key], f"model {name}: {key}", least=1)


def _windows(config: Mapping[str, Any], layers: int, name: str) -> tuple[int, int | None]:
    """(layers with a sliding window, its tokens), as vLLM reads them."""
    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    if kinds and (unknown := [k for k in kinds if any(word in str(k) for word in _UNMODELLED)]):
        raise ConfigError(f"model {name}: layers that are not modelled", unknown[0], "only attention layers are")
    if not window or config.get("use_sliding_window") is False:
        return 0, None
    if kinds:
        count = sum(kind == "sliding_attention" for kind in kinds)
    elif pattern := config.get("sliding_window_pattern"):
        count = sum((layer + 1) % pattern != 0 for layer in range(layers))
    else:
        count = layers
    return count, whole(window, f"model {name}: sliding_window", least=1) if count else None


def _attention(config: Mapping[str, Any], name: str) -> tuple[int, int, int | None, int, int]:
    """(KV heads, head dimension, latent dimension, weights of one layer, its norms and biases)."""
    hidden, heads = _count(config, "hidden_size", name), _count(config, "num_attention_heads", name)
    if config.get("kv_lora_rank"):
        rank, rope = _count(config, "kv_lora_rank", name), _count(config, "qk_rope_head_dim", name)
        nope, v = _count(config, "qk_nope_head_dim", name), _count(config, "v_head_dim", name)
        q_rank = config.get("q_lora_rank")
        q = hidden * q_rank + q_rank * heads * (nope + rope) if q_rank else hidden * heads * (nope + rope)
        kv = hidden * (rank + rope) + rank * heads * (nope + v)
        return 1, rank + rope, rank + rope, q + kv + heads * v * hidden, rank + (q_rank or 0)
    dim = whole(config.get("head_dim") or hidden // heads, f"model {name}: head_dim", least=1)
    kv_heads = whole(config.get("num_key_value_heads") or heads, f"model {name}: num_key_value_heads", least=1)
    weights = hidden * dim * (2 * heads + 2 * kv_heads)
    kind = str(config.get("model_type", ""))
    small = 2 * dim if kind.startswith(("qwen3", "gemma3")) else 0  # norms of queries and keys
    if config.get("attention_bias") or kind == "qwen2":
        small += dim * (heads + 2 * kv_heads) + (hidden if config.get("attention_bias") else 0)
    if kind == "gpt_oss":
        small += heads  # attention sinks
    return kv_heads, dim, None, weights, small


def _mlp(config: Mapping[str, Any], layers: int, name: str) -> tuple[int, int, int]:
    """(feed-forward weights of all layers, those that one token uses, routers and biases of all layers)."""
    hidden = _count(config, "hidden_size", name)
    experts = config.get("num_local_experts") or config.get("n_routed_experts") or config.get("num_experts")
    dense = 3 * hidden * _count(config, "intermediate_size", name)
    if not experts:
        return layers * dense, layers * dense, 0
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    one, used = 3 * hidden * width, _count(config, "num_experts_per_tok", name)
    shared = one * (config.get("n_shared_experts") or 0)
    dense_layers = config.get("first_k_dense_replace") or 0
    sparse = layers - dense_layers
    small = hidden * experts
    if config.get("model_type") == "gpt_oss":
        small += experts + experts * (2 * width + hidden)  # biases of router and experts
    if config.get("model_type") == "deepseek_v3":
        small += experts  # the routers' correction bias
    total = dense_layers * dense + sparse * (experts * one + shared)
    return total, dense_layers * dense + sparse * (used * one + shared), sparse * small


def model_shape(config: Mapping[str, Any], name: str = "model") -> ModelShape:
    """Read a config.json (its text part, where it has several). Raises ConfigError naming what is missing or not modelled."""
    if isinstance(config.get("text_config"), Mapping):
        outer = {k: config[k] for k in ("quantization_config", "torch_dtype", "dtype") if k in config}
        config = {**outer, **config["text_config"]}
    layers = _count(config, "num_hidden_layers", name)
    hidden, vocabulary = _count(config, "hidden_size", name), _count(config, "vocab_size", name)
    window_layers, window = _windows(config, layers, name)
    kv_heads, head_dim, latent, weights, small = _attention(config, name)
    mlp, mlp_used, routers = _mlp(config, layers, name)
    kind = str(config.get("model_type", ""))
    tied = config.get("tie_word_embeddings", kind.startswith("gemma"))
    norms = hidden * (layers * (4 if kind.startswith("gemma") else 2) + 1)
    other = norms + layers * small + routers
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    method = str((config.get("quantization_config") or {}).get("quant_method", ""))
    stored = {"fp8": "fp8", "mxfp4": "mxfp4", "awq": "int4", "gptq": "int4"}.get(method, dtype)
    head = 0 if tied else vocabulary * hidden
    return ModelShape(
        name=name,
        layers=layers,
        window_layers=window_layers,
        window=window,
        kv_heads=kv_heads,
        head_dim=head_dim,
        latent_dim=latent,
        attention_heads=_count(config, "num_attention_heads", name),
        max_tokens=whole(
            config.get("max_position_embeddings") or 2048, f"model {name}: max_position_embeddings", least=1
        ),
        dtype=dtype,
        weight_dtype=stored,
        embedding_parameters=vocabulary * hidden + head,
        attention_parameters=layers * weights,
        mlp_parameters=mlp,
        other_parameters=other,
        active_parameters=(head or vocabulary * hidden) + layers * weights + mlp_used + other,
    )
