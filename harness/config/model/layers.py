"""Which model families are modelled, and what each layer of a config.json is: full attention, a window, a chunk, a state, or none.

Families are known by `model_type`; any other is refused by name, because a layer that nobody looked at is counted wrong without a
sign. Only the text part of a model is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.base.errors import ConfigError, nearest
from harness.base.quantities import whole


@dataclass(frozen=True, slots=True)
class Family:
    """What a model_type means and its config does not say. `windows`: which layers have the window where layer_types is missing."""

    qkv_bias: bool = False
    head_norms: bool = False  # norms of queries and keys, one head wide
    full_norms: bool = False  # the same over all heads
    norms: int = 2  # of a layer
    windows: str = ""  # all | even | pattern | late
    states: str = ""  # delta | mamba | mamba2
    gated_attention: bool = False  # queries come with a gate of their size
    shared_gate: bool = False
    corrected_router: bool = False
    tied: bool = False  # where the config does not say


FAMILIES: Mapping[str, Family] = {
    "llama": Family(), "granite": Family(), "smollm3": Family(),
    "mistral": Family(windows="all"), "mixtral": Family(windows="all"), "phi3": Family(windows="all"),
    "qwen2": Family(qkv_bias=True, windows="late"), "qwen2_moe": Family(qkv_bias=True, windows="late", shared_gate=True),
    "qwen3": Family(head_norms=True, windows="late"), "qwen3_moe": Family(head_norms=True, windows="late"),
    "qwen3_next": Family(head_norms=True, states="delta", gated_attention=True, shared_gate=True),
    "qwen3_5_text": Family(head_norms=True, states="delta", gated_attention=True),
    "qwen3_5_moe_text": Family(head_norms=True, states="delta", gated_attention=True, shared_gate=True),
    "gemma": Family(tied=True),
    "gemma2": Family(norms=4, windows="even", tied=True),
    "gemma3_text": Family(norms=4, head_norms=True, windows="pattern", tied=True),
    "olmo2": Family(full_norms=True),
    "gpt_oss": Family(windows="even"),
    "glm4_moe": Family(corrected_router=True),
    "deepseek_v2": Family(), "deepseek_v3": Family(corrected_router=True), "kimi_k2": Family(corrected_router=True),
    "llama4_text": Family(),
    "jamba": Family(states="mamba"),
    "nemotron_h": Family(norms=1, states="mamba2", corrected_router=True),
}  # fmt: skip
_ALSO = {"gemma3": "gemma3_text", "llama4": "llama4_text", "qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text"}
_KINDS = {
    "full_attention": "full", "attention": "full", "sliding_attention": "window", "chunked_attention": "chunk",
    "linear_attention": "state", "mamba": "state", "mlp": "none", "moe": "none",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """A config.json with its family; `count` reads a number that must be there, `of` one that has a default."""

    values: Mapping[str, Any]
    name: str
    family: Family
    model_type: str

    def count(self, *keys: str, least: int = 1) -> int:
        for key in keys:
            if self.values.get(key) is not None:
                return whole(self.values[key], f"model {self.name}: {key}", least=least)
        raise ConfigError(
            f"model {self.name}: config has no {keys[0]}", "missing", "give the config.json of a decoder-only model"
        )

    def of(self, key: str, default: int, least: int = 0) -> int:
        return default if self.values.get(key) is None else self.count(key, least=least)


_MOST_LAYERS = 10_000


def read_config(values: Mapping[str, Any], name: str) -> Config:
    """The text part of a config.json and its family. Raises ConfigError for a model_type that is not modelled."""
    if isinstance(values.get("text_config"), Mapping):
        kept = (
            "quantization_config",
            "compression_config",
            "torch_dtype",
            "dtype",
            "tie_word_embeddings",
            "model_type",
        )
        values = {**{k: values[k] for k in kept if k in values}, **values["text_config"]}
    kind = str(values.get("model_type") or "")
    kind = _ALSO.get(kind, kind)
    if kind not in FAMILIES:
        raise ConfigError(f"model {name}: model_type is not modelled", kind or "missing", nearest(kind, FAMILIES, f"known: {', '.join(FAMILIES)}"))  # fmt: skip
    return Config(values, name, FAMILIES[kind], kind)


# ---------------------------------------------------------------- what each layer is


def blocks_of(c: Config) -> list[str] | None:
    """Nemotron-H: the block of each layer (M state, * attention, - feed-forward, E experts); None for others."""
    if c.model_type != "nemotron_h":
        return None
    pattern = c.values.get("hybrid_override_pattern")
    listed = c.values.get("layers_block_type") or c.values.get("layer_types")
    words = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E"}
    blocks = [words.get(str(b), str(b)) for b in listed] if listed else list(str(pattern or ""))
    if not blocks or (unknown := sorted(set(blocks) - set("M*-E"))):
        value = "missing" if not blocks else unknown[0]
        raise ConfigError(f"model {c.name}: hybrid_override_pattern", value, "letters M, *, - and E, one a layer")
    return blocks


def layer_kinds(c: Config) -> list[str]:
    """full, window, chunk, state or none for each layer. Raises ConfigError for a kind that is not modelled."""
    if blocks := blocks_of(c):
        return [{"M": "state", "*": "full"}.get(b, "none") for b in blocks]
    layers = c.count("num_hidden_layers")
    if layers > _MOST_LAYERS:
        raise ConfigError(f"model {c.name}: num_hidden_layers is beyond any", layers, f"{_MOST_LAYERS} at most")
    window = c.values.get("sliding_window")
    windowed = bool(window) and c.values.get("use_sliding_window") is not False
    if types := c.values.get("layer_types") or c.values.get("layers_block_type"):
        if unknown := [t for t in types if t not in _KINDS]:
            raise ConfigError(
                f"model {c.name}: layers that are not modelled", unknown[0], f"known: {', '.join(_KINDS)}"
            )
        if len(types) != layers:
            raise ConfigError(f"model {c.name}: layer_types", f"{len(types)} for {layers} layers", "one a layer")
        kinds = [_KINDS[t] for t in types]
        if "state" in kinds and not c.family.states:
            raise ConfigError(f"model {c.name}: layers that are not modelled", types[kinds.index("state")], f"{c.model_type} is modelled with attention only")  # fmt: skip
        return [k if windowed or k != "window" else "full" for k in kinds]
    if c.model_type == "jamba":
        period, offset = c.of("attn_layer_period", 8, 1), c.of("attn_layer_offset", 4)
        return ["full" if layer % period == offset else "state" for layer in range(layers)]
    if c.family.states == "delta":
        every = c.of("full_attention_interval", 4, 1)
        return ["full" if (layer + 1) % every == 0 else "state" for layer in range(layers)]
    if c.model_type == "llama4_text":
        return ["chunk" if rope else "full" for rope in _roped(c, layers)]
    if not windowed:
        return ["full"] * layers
    pattern = c.of("sliding_window_pattern", 6, 1)
    late = c.of("max_window_layers", 28) if c.values.get("use_sliding_window") else layers
    return ["window" if _has_window(c.family.windows, layer, pattern, late) else "full" for layer in range(layers)]


def _has_window(rule: str, layer: int, pattern: int, late: int) -> bool:
    rules = {
        "": False,
        "all": True,
        "even": layer % 2 == 0,
        "pattern": (layer + 1) % pattern != 0,
        "late": layer >= late,
    }
    return rules[rule]


def _roped(c: Config, layers: int) -> list[bool]:
    """Llama 4: layers with position embeddings attend within a chunk, the others to everything."""
    if not c.values.get("attention_chunk_size"):
        return [False] * layers
    if given := c.values.get("no_rope_layers"):  # 1: the layer has them
        return [bool(g) for g in given]
    every = c.of("no_rope_layer_interval", 4, 1)
    return [(layer + 1) % every != 0 for layer in range(layers)]
