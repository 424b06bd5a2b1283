"""The numbers of a model's config.json that memory and arithmetic depend on: layers, heads, windows, states, parameters.

Only what is modelled is read; a model family, a layer or a quantisation that is not is refused by name (model_layers, quantisation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.documents import exists, parse_json
from harness.base.errors import ConfigError, nearest
from harness.base.files import data_dir
from harness.base.quantities import whole
from harness.config.model.layers import Config, layer_kinds, read_config
from harness.config.model.matrices import Matrix, head_dim, kv_heads, parts, state_elements
from harness.config.model.quantisation import quantisation

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory and arithmetic need of a model. Of its `layers`, full_layers cache every token, window_layers the last `window`
    (`chunked`: those since the last multiple of it), state_layers a state of `state_bytes` a sequence; the rest caches nothing.
    state_blocks: how many states of a sequence vLLM keeps at once so that a prefix can be found again: the one that is written, the
    one it was resumed from and, for Mamba-2, one of the prefill.

    latent_dim: kv_lora_rank + qk_rope_head_dim of latent attention, else None. qk_dim, v_dim: widths of a head in prefill;
    decode_qk_dim, decode_v_dim: in decoding, where latent attention works on the latent itself. Parameters: embedding (and output
    head), attention (state mixers in), feed-forward (all experts), other (norms, routers, biases, convolutions);
    active_parameters: used by one token. weight_bytes: as published, quantisation in; weight_dtype: of most of them.
    """

    name: str
    layers: int
    full_layers: int
    window_layers: int
    window: int | None
    chunked: bool
    state_layers: int
    state_bytes: int
    state_blocks: int
    kv_heads: int
    head_dim: int
    latent_dim: int | None
    qk_dim: int
    v_dim: int
    decode_qk_dim: int
    decode_v_dim: int
    attention_heads: int
    max_tokens: int
    dtype: str
    weight_dtype: str
    weight_bytes: float
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
    """A model by name, a config.json, or a directory that holds one. Raises ConfigError (the nearest names are given).

    An hf_quant_config.json beside it says how the weights are quantised where the config does not.
    """
    known = models()
    path = Path(name)
    if name in known:
        path = known[name]
    elif exists(path) and path.is_dir():
        path = path / "config.json"
    elif not exists(path):
        raise ConfigError("no such model", name, nearest(name, known, f"a config.json, or one of {', '.join(known)}"))
    data = _mapping(path)
    beside = path.with_name("hf_quant_config.json")
    if path.name == "config.json" and beside.is_file() and not _quantisation_of(data):
        data = {**data, "quantization_config": {"quant_method": "modelopt", **_mapping(beside)}}
    shown = path.stem if path.stem != "config" else path.parent.name or "config.json"
    return foreign_shape(data, shown)


def foreign_shape(config: Mapping[str, Any], name: str) -> ModelShape:
    """As model_shape, of a config that somebody else wrote. Raises ConfigError for values of a wrong type too."""
    try:
        return model_shape(config, name)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        why = f"{type(error).__name__}: {error}"[:200]
        raise ConfigError(
            f"model {name}: config cannot be used", why, "compare it with those in configs/models"
        ) from None


def _mapping(path: Path) -> dict[str, Any]:
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError("model config cannot be read", path, f"{type(error).__name__}: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError("model config is not a mapping", path, "give the model's config.json")
    return data


def _quantisation_of(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return values.get("quantization_config") or values.get("compression_config")


def _windows(c: Config, kinds: Sequence[str]) -> tuple[int, int | None, bool]:
    """(layers with a window or chunk, its tokens, whether chunks)."""
    windows, chunks = kinds.count("window"), kinds.count("chunk")
    if windows and chunks:
        raise ConfigError(f"model {c.name}: layers that are not modelled", "windows and chunks", "one of the two")
    if not windows and not chunks:
        return 0, None, False
    return windows + chunks, c.count("attention_chunk_size" if chunks else "sliding_window"), bool(chunks)


def _widths(c: Config) -> tuple[int, int, int | None, int, int, int, int]:
    """(KV heads, head dimension, latent dimension, widths of query-key and value in prefill, and in decoding)."""
    if c.values.get("kv_lora_rank"):
        rank, rope, v = c.count("kv_lora_rank"), c.count("qk_rope_head_dim"), c.count("v_head_dim")
        latent = rank + rope
        return 1, latent, latent, c.count("qk_nope_head_dim") + rope, v, latent, rank
    dim = head_dim(c)
    return kv_heads(c), dim, None, dim, dim, dim, dim


def _state_bytes(c: Config, kinds: Sequence[str], dtype: str) -> int:
    """Of one state layer and sequence: the convolution in the model's dtype, the state in its own where the config names one."""
    if "state" not in kinds:
        return 0
    default = "float32" if c.model_type == "nemotron_h" else dtype  # as vLLM takes it
    own = _known_dtype(c, "mamba_ssm_cache_dtype", "mamba_ssm_dtype", default=default)
    convolution, state = state_elements(c)
    return convolution * _BYTES[dtype] + state * _BYTES[own]


def _known_dtype(c: Config, *keys: str, default: str) -> str:
    """What the first of the keys that is there says. Raises ConfigError for a dtype that is not known."""
    dtype = str(next((c.values[key] for key in keys if c.values.get(key)), default)).removeprefix("torch.")
    if dtype not in _BYTES:
        raise ConfigError(f"model {c.name}: dtype is not known", dtype, f"known: {', '.join(_BYTES)}")
    return dtype


def _stored(c: Config, matrices: Sequence[Matrix], small: int, dtype: str) -> tuple[float, str]:
    """(bytes of all weights, dtype of most of them)."""
    plain = _BYTES[dtype]
    given = _quantisation_of(c.values)
    rules = quantisation(given, c.name) if given else None
    total, by_label = float(small * plain), Counter[str]()
    for matrix in matrices:
        scheme = rules.scheme(matrix) if rules else None
        total += matrix.parameters * (plain if scheme is None else scheme.bits / 8)
        by_label[dtype if scheme is None else scheme.label] += matrix.parameters
    return total, max(by_label, key=lambda label: by_label[label])


def model_shape(config: Mapping[str, Any], name: str = "model") -> ModelShape:
    """Read a config.json (its text part, where it has several). Raises ConfigError naming what is missing or not modelled."""
    c = read_config(config, name)
    kinds = layer_kinds(c)
    if not {"full", "window", "chunk"} & set(kinds):
        raise ConfigError(f"model {name}: no attention layers", c.model_type, "a model of states alone has no KV cache")
    window_layers, window, chunked = _windows(c, kinds)
    kv, dim, latent, qk, v, decode_qk, decode_v = _widths(c)
    found = list(parts(c))
    matrices = [m for m in found if isinstance(m, Matrix)]
    small = sum(m for m in found if not isinstance(m, Matrix))
    by_kind = Counter[str]()
    for m in matrices:
        by_kind[m.kind] += m.parameters
    dtype = _known_dtype(c, "dtype", "torch_dtype", default="bfloat16")
    stored, label = _stored(c, matrices, small, dtype)
    idle = sum(m.outputs * m.inputs * (m.copies - m.used) for m in matrices)  # experts that a token does not pass
    unread = by_kind["embedding"] if by_kind["head"] else 0  # a row of it is looked up
    total = sum(by_kind.values()) + small
    return ModelShape(
        name=name,
        layers=len(kinds),
        full_layers=kinds.count("full"),
        window_layers=window_layers,
        window=window,
        chunked=chunked,
        state_layers=kinds.count("state"),
        state_bytes=_state_bytes(c, kinds, dtype),
        state_blocks=3 if c.family.states == "mamba2" else 2,
        kv_heads=kv,
        head_dim=dim,
        latent_dim=latent,
        qk_dim=qk,
        v_dim=v,
        decode_qk_dim=decode_qk,
        decode_v_dim=decode_v,
        attention_heads=c.count("num_attention_heads"),
        max_tokens=whole(
            c.values.get("max_position_embeddings") or 2048, f"model {name}: max_position_embeddings", least=1
        ),
        dtype=dtype,
        weight_dtype=label,
        weight_bytes=stored,
        embedding_parameters=by_kind["embedding"] + by_kind["head"],
        attention_parameters=by_kind["attention"],
        mlp_parameters=by_kind["mlp"] + by_kind["expert"],
        other_parameters=by_kind["router"] + small,
        active_parameters=total - idle - unread,
    )
