"""Bits that a weight takes, out of a config.json's quantization_config: the method, its groups' scales, and what it leaves alone.

    bits = number's bits + (bits of a scale and a zero point) / weights that share them

Embeddings, the output head, routers and norms stay at the model's dtype. A method that is not known is refused by name: taken for the
model's own dtype it would make a 70B model of 40 GB one of 141. Formats: vLLM's quantisation methods and compressed-tensors' schemes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from harness.base.errors import ConfigError
from harness.base.quantities import whole
from harness.config.model.matrices import Matrix

_SCALE, _SMALL_SCALE = 16, 8  # bits: a float16 scale of a group; the 8-bit scales of NVFP4 and MXFP4
_NVFP4_GROUP, _MXFP4_GROUP = 16, 32


@dataclass(frozen=True, slots=True)
class Scheme:
    """Numbers of a weight: `label` as in memory.WEIGHT_BYTES where there is one, bits of a weight with its share of scales."""

    label: str
    bits: float


@dataclass(frozen=True, slots=True)
class Quantisation:
    """`rules`: (which matrices, their scheme), the first that fits; a matrix that none fits stays at the model's dtype."""

    rules: tuple[tuple[Callable[[Matrix], bool], Scheme], ...]

    def scheme(self, matrix: Matrix) -> Scheme | None:
        if matrix.kind in {"embedding", "head", "router"}:
            return None
        return next((scheme for fits, scheme in self.rules if fits(matrix)), None)


FP8, INT8 = Scheme("fp8", 8.0), Scheme("int8", 8.0)
NVFP4 = Scheme("nvfp4", 4 + _SMALL_SCALE / _NVFP4_GROUP)
MXFP4 = Scheme("mxfp4", 4 + _SMALL_SCALE / _MXFP4_GROUP)


def _matches(name: str, pattern: str) -> bool:
    """Whether an entry of an ignore list means this matrix: re:REGEX, a wildcard, a whole name, or a part of it between dots."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name) is not None
    pattern = pattern.replace("language_model.", "")  # what a model with a vision tower calls its text part
    if "*" in pattern:
        return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
    return f".{pattern}." in f".{name}."


def _left_alone(config: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    return tuple(str(entry) for key in keys for entry in config.get(key) or ())


def _except(ignored: Sequence[str]) -> Callable[[Matrix], bool]:
    return lambda matrix: not any(_matches(matrix.name, pattern) for pattern in ignored)


def _grouped(bits: int, group: int, zero_point: bool) -> Scheme:
    """Integers with a scale (and a zero point of their own width) for each group; group -1: one a channel, which is nothing."""
    label = {8: "int8", 4: "int4", 3: "int3", 2: "int2"}[bits]
    return Scheme(label, bits + (0.0 if group <= 0 else (_SCALE + (bits if zero_point else 0)) / group))


def _group(value: Any, what: str) -> int:
    """Weights that share a scale; -1, as none, is one a channel."""
    return -1 if value is None else whole(value, f"{what}: group_size", least=-1)


def _method(config: Mapping[str, Any]) -> str:
    """quant_method, or what its keys say where it is missing."""
    if config.get("quant_method"):
        return str(config["quant_method"]).lower()
    if config.get("load_in_4bit") or config.get("load_in_8bit"):
        return "bitsandbytes"
    inner = config.get("quantization")
    return "modelopt" if "quant_algo" in {**config, **(inner if isinstance(inner, Mapping) else {})} else ""


def quantisation(config: Mapping[str, Any], name: str) -> Quantisation:
    """A quantization_config. Raises ConfigError for a method or format that is not known."""
    method = _method(config)
    ignored = _left_alone(config, "modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules")
    match method:
        case "fp8" | "fbgemm_fp8":
            return Quantisation(((_except(ignored), FP8),))
        case "mxfp4" | "gpt_oss_mxfp4":
            return Quantisation(((lambda matrix: matrix.kind == "expert", MXFP4),))
        case "gptq" | "gptq_marlin":
            return _gptq(config, ignored, name)
        case "awq" | "awq_marlin":
            bits = _one_of((4, 8), config.get("bits", config.get("w_bit", 4)), f"model {name}: bits of awq")
            group = _group(config.get("group_size", config.get("q_group_size", 128)), f"model {name}")
            return Quantisation(((_except(ignored), _grouped(bits, group, bool(config.get("zero_point", True)))),))
        case "bitsandbytes":
            return _bitsandbytes(config, ignored, name)
        case "compressed-tensors":
            return _compressed_tensors(config, ignored, name)
        case "modelopt" | "modelopt_fp4":
            return _modelopt(config, ignored, name)
        case "quark":
            return _quark(config, name)
        case _:
            raise ConfigError(
                f"model {name}: quantisation is not known", method or "quant_method is missing",
                "known: fp8, fbgemm_fp8, compressed-tensors, modelopt, bitsandbytes, gptq, awq, mxfp4, quark",
            )  # fmt: skip


def _one_of(known: Sequence[int], value: Any, what: str) -> int:
    bits = whole(value, what, least=1)
    if bits not in known:
        raise ConfigError(f"{what} is not known", value, f"known: {', '.join(map(str, known))}")
    return bits


def _gptq(config: Mapping[str, Any], ignored: Sequence[str], name: str) -> Quantisation:
    """`dynamic`: regular expressions, -: left alone, +: with numbers of their own."""
    group = _group(config.get("group_size", 128), f"model {name}")
    bits = _one_of((2, 3, 4, 8), config.get("bits"), f"model {name}: bits of gptq")
    rules: list[tuple[Callable[[Matrix], bool], Scheme]] = []
    skipped = list(ignored)
    for pattern, changes in (config.get("dynamic") or {}).items():
        if pattern.startswith("-:"):
            skipped.append("re:" + pattern[2:])
            continue
        own = _one_of((2, 3, 4, 8), changes.get("bits", bits), f"model {name}: bits of gptq for {pattern}")
        scheme = _grouped(own, _group(changes.get("group_size", group), f"model {name}"), zero_point=True)
        rules.append((_named(("re:" + pattern.removeprefix("+:"),), skipped), scheme))
    return Quantisation((*rules, (_except(skipped), _grouped(bits, group, zero_point=True))))


def _named(patterns: Sequence[str], ignored: Sequence[str]) -> Callable[[Matrix], bool]:
    """Matrices that a target names (Linear: every one) and no entry of the ignore list does."""
    left = _except(ignored)
    return lambda m: left(m) and any(p == "Linear" or _matches(m.name, p) for p in patterns)


def _bitsandbytes(config: Mapping[str, Any], ignored: Sequence[str], name: str) -> Quantisation:
    """NF4/FP4: a 32-bit absmax per 64 weights, or, quantised twice, 8 bits of it and 32 bits per 256 of those."""
    skipped = [*ignored, *_left_alone(config, "llm_int8_skip_modules")]
    if config.get("load_in_4bit"):
        scales = 8 / 64 + 32 / (64 * 256) if config.get("bnb_4bit_use_double_quant") else 32 / 64
        return Quantisation(((_except(skipped), Scheme("int4", 4 + scales)),))
    if config.get("load_in_8bit"):
        return Quantisation(((_except(skipped), INT8),))
    raise ConfigError(
        f"model {name}: bitsandbytes is not clear", "neither load_in_4bit nor load_in_8bit", "one is true"
    )


def _compressed_tensors(config: Mapping[str, Any], ignored: Sequence[str], name: str) -> Quantisation:
    sparse = str((config.get("sparsity_config") or {}).get("format") or "dense")
    if sparse != "dense":
        raise ConfigError(f"model {name}: sparsity of compressed-tensors is not modelled", sparse, "dense weights only")
    rules = []
    for title, group in (config.get("config_groups") or {}).items():
        weights, targets = group.get("weights"), tuple(group.get("targets") or ("Linear",))
        if weights is not None:
            rules.append((_named(targets, ignored), _numbers(weights, f"model {name}: {title} of compressed-tensors")))
    if not rules:
        raise ConfigError(
            f"model {name}: compressed-tensors without weights", "no config_groups", "look at its config.json"
        )
    return Quantisation(tuple(rules))


def _numbers(weights: Mapping[str, Any], what: str) -> Scheme:
    """A scheme of compressed-tensors: number type and bits, a scale per tensor, channel, block or group."""
    bits, kind = weights.get("num_bits"), str(weights.get("type", "int"))
    shared = weights.get("strategy") in {"tensor", "channel", "block"}
    group = -1 if shared else _group(weights.get("group_size"), what)
    match (kind, bits):
        case ("float", 8):
            return FP8 if group <= 0 else Scheme("fp8", 8 + _SMALL_SCALE / group)
        case ("float", 4) if group == _NVFP4_GROUP:
            return NVFP4
        case ("float", 4) if group == _MXFP4_GROUP:
            return MXFP4
        case ("int", 4 | 8):
            return _grouped(bits, group, zero_point=not weights.get("symmetric", True))
        case _:
            raise ConfigError(f"{what} is not known", f"{bits}-bit {kind}, group {group}", "known: 8-bit float, NVFP4, MXFP4, 4- and 8-bit int")  # fmt: skip


def _modelopt(config: Mapping[str, Any], ignored: Sequence[str], name: str) -> Quantisation:
    """The algorithm and what it excludes, at the top (config.json) or under `quantization` (hf_quant_config.json)."""
    inner = config.get("quantization") or config
    skipped = [*ignored, *_left_alone(inner, "exclude_modules", "ignore")]
    algorithm = str(inner.get("quant_algo"))
    if algorithm in {"FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO"}:
        return Quantisation(((_except(skipped), FP8),))
    if algorithm == "NVFP4":
        group = whole(inner.get("group_size") or _NVFP4_GROUP, f"model {name}: group_size", least=1)
        return Quantisation(((_except(skipped), Scheme("nvfp4", 4 + _SMALL_SCALE / group)),))
    raise ConfigError(f"model {name}: quantisation of modelopt is not known", algorithm, "known: FP8, NVFP4")  # fmt: skip


def _quark(config: Mapping[str, Any], name: str) -> Quantisation:
    if config.get("layer_quant_config"):
        raise ConfigError(
            f"model {name}: layers of quark with numbers of their own", "layer_quant_config", "not modelled"
        )
    weights = (config.get("global_quant_config") or {}).get("weight") or {}
    kind, group = str(weights.get("dtype")), _group(weights.get("group_size"), f"model {name}")
    known = {"fp8_e4m3": FP8, "int8": INT8, "fp4": MXFP4 if group == _MXFP4_GROUP else None}
    scheme = _grouped(4, group, kind == "uint4") if kind in {"int4", "uint4"} else known.get(kind)
    if scheme is None:
        raise ConfigError(f"model {name}: numbers of quark are not known", kind, "known: fp8_e4m3, int8, int4, fp4")
    return Quantisation(((_except(_left_alone(config, "exclude")), scheme),))
