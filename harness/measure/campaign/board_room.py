"""Whether a server of ours has room on its boards, before it is started: free memory now, and the model's by arithmetic.

    weights / (TP x PP) + KV cache of one sequence of max-model-len + overhead  <=  board x gpu-memory-utilization

The same arithmetic as `harness cost memory`. Refused is what cannot fit without any overhead; what fits only without it is said. A
model whose shape is not known, or a flag that changes it in ways that are not modelled, refuses nothing, and that is said too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from harness.base import clock
from harness.base.errors import ConfigError, TargetError
from harness.config.model.memory import GB, sequence_kv_bytes, weight_bytes
from harness.config.model.shape import ModelShape, load_model, models
from harness.config.target import TargetSpec, flags_by_name, parallel_sizes
from harness.measure.observe.boards.choice import visible_devices
from harness.measure.observe.boards.inventory import Room, Rooms, rooms
from harness.measure.targets import at_hand

_OURS = ("vllm", "offline")
_SHARE = 0.92  # vLLM's default gpu_memory_utilization, read at 0.24 and 0.32
_SHARE_OF_ANY = 0.9  # of older ones: a board is refused only where every version would refuse it
_OVERHEAD_BYTES = 2 * GB  # CUDA context, activations and graphs, as `harness cost memory` takes them unless told
_RELEASE_S = 10.0  # a driver gives the memory of an ended server back in its own time
_POLL_S = 0.5
# Flags under which weights or KV cache are not those of the config
_NOT_MODELLED = ("quantization", "q", "cpu_offload_gb", "hf_overrides", "speculative_config", "enable_expert_parallel", "ep",
                 "num_gpu_blocks_override", "kv_cache_memory_bytes", "kv_transfer_config", "decode_context_parallel_size", "dcp")  # fmt: skip
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_GIB = 1 << 30


def check_room(spec: TargetSpec, say: Callable[[str], None]) -> None:
    """Raises TargetError where the boards lack the memory that this start will ask for. Without NVML, and for what is not started by us,
    there is nothing to check."""
    if spec.kind not in _OURS:
        return
    flags = flags_by_name(spec.flags)
    asked = prod(parallel_sizes(flags, here=True).values())
    devices = visible_devices({**os.environ, **spec.env})
    found = rooms(devices, asked)
    if isinstance(found, str):
        return
    if len(found.taken) < asked:
        have = f"{len(found.taken)} {'here' if devices is None else 'visible: ' + ', '.join(devices)}"
        advice = "lower tensor-parallel-size, or name more in gpus:"
        raise TargetError("the flags ask for more GPUs than there are", f"{asked} asked for, {have}", advice)
    taken = [room for room in found.taken if room is not None]
    if why := _uncertain(spec, devices, found, taken):
        say(f"{spec.name}: whether the server has room is not checked: {why}")
        return
    share = _number(flags.get("gpu_memory_utilization"))
    if "kv_cache_memory_bytes" not in flags:
        _check_free(spec, devices, asked, share or _SHARE_OF_ANY)
    _check_fit(spec, flags, min(taken, key=lambda room: room.total_bytes), share or _SHARE, say)


def _uncertain(spec: TargetSpec, devices: Sequence[str] | None, found: Rooms, taken: Sequence[Room]) -> str | None:
    """Why it is not known which boards the server takes, or what they have."""
    if len(taken) < len(found.taken):
        return "a board does not tell its memory"
    by_number = devices is None or any(word.isdigit() for word in devices)
    order = spec.env.get("CUDA_DEVICE_ORDER", os.environ.get("CUDA_DEVICE_ORDER"))
    if by_number and len(set(found.names)) > 1 and order != "PCI_BUS_ID":
        return "the boards differ, and CUDA numbers them by their speed (CUDA_DEVICE_ORDER: PCI_BUS_ID makes the order NVML's)"
    return None


def _number(value: Any) -> float | None:
    try:
        return float(value) if value is not None else None
    except (TypeError, ValueError):
        return None


def _check_free(spec: TargetSpec, devices: Sequence[str] | None, asked: int, share: float) -> None:
    """Each board's free memory against what vLLM will ask for; what an ended server still holds is waited for."""
    end_ns = clock.monotonic_ns() + int(_RELEASE_S * clock.NS)
    while True:
        found = rooms(devices, asked)
        known = () if isinstance(found, str) else found.taken
        short = [room for room in known if room is not None and room.free_bytes < share * room.total_bytes]
        if not short:
            return
        if clock.monotonic_ns() > end_ns:
            break
        clock.sleep(_POLL_S)
    raise TargetError(
        "a GPU has less free memory than the server will ask for",
        "; ".join(_short_of(room, share) for room in short),
        f"end what holds it, choose other boards (gpus:), or lower gpu-memory-utilization for {spec.name!r}",
    )


def _short_of(room: Room, share: float) -> str:
    holders = (
        ", ".join(room.held_by[:4])
        or "by processes that the driver does not show here (another container or pid namespace)"
    )
    return (
        f"GPU {room.index} ({room.name}): {room.free_bytes / _GIB:.1f} of {room.total_bytes / _GIB:.1f} GiB free, "
        f"{share:g} of it asked for; held by {holders}"
    )


def _check_fit(
    spec: TargetSpec, flags: Mapping[str, Any], room: Room, share: float, say: Callable[[str], None]
) -> None:
    try:
        shape, why = _shape(spec, flags)
        if (
            shape is not None
            and shape.active_parameters < shape.parameters
            and parallel_sizes(flags).get("data_parallel_size", 1) != 1
        ):
            shape, why = None, "how data-parallel ranks share out a model is not modelled"
        needs = None if shape is None else _needs(shape, flags)
    except ConfigError as error:
        shape, needs, why = None, None, f"{error.what}: {error.value}"
    if shape is None or needs is None:
        say(f"{spec.name}: whether the model fits is not checked: {why}")
        return
    weights, kv, context, gpus = needs
    budget = room.total_bytes * share
    words = (
        f"{weights / GB:.1f} GB of weights + {kv / GB:.2f} GB of KV cache for {context:,} tokens + {_OVERHEAD_BYTES / GB:.0f} GB overhead = "
        f"{(weights + kv + _OVERHEAD_BYTES) / GB:.1f} GB a GPU, over {gpus} x {room.name} with {share:g} x {room.total_bytes / GB:.1f} = {budget / GB:.1f} GB each"
    )
    if weights + kv > budget:
        raise TargetError(
            f"{shape.name} does not fit on {gpus} x {room.name}",
            words,
            "more GPUs (tensor-parallel-size), a smaller max-model-len, quantised weights, or another model; `harness cost memory` shows what fits",
        )
    if weights + kv + _OVERHEAD_BYTES > budget:
        say(f"{spec.name}: the model may not fit: {words}")


def _shape(spec: TargetSpec, flags: Mapping[str, Any]) -> tuple[ModelShape | None, str]:
    """The model's shape, or why it is not known. Raises ConfigError for a config that is not modelled."""
    if named := [name for name, value in flags.items() if value and name.partition(".")[0] in _NOT_MODELLED]:
        return None, f"{named[0]} changes what its config says"
    folder = at_hand.locate(spec.model, {**os.environ, **spec.env})
    if folder is not None:
        if not (folder / "config.json").is_file():
            return None, "the model's directory has no config.json"
        return load_model(str(folder)), ""
    short = spec.model.removeprefix("embedded:").rpartition("/")[2].lower()
    if short in models():
        return load_model(short), ""
    return None, "its config is neither in the local hub cache nor in configs/models"


def _needs(shape: ModelShape, flags: Mapping[str, Any]) -> tuple[float, float, int, int]:
    """(weights, KV bytes of one sequence, its tokens, GPUs) of one GPU of one replica."""
    sizes = parallel_sizes(flags)
    tensor, pipeline = sizes.get("tensor_parallel_size", 1), sizes.get("pipeline_parallel_size", 1)
    dtype = {"half": "float16", "float": "float32"}.get(
        str(flags.get("dtype", "auto")), str(flags.get("dtype", "auto"))
    )
    plain = shape.weight_dtype in ("float32", "float16", "bfloat16")
    weights = weight_bytes(shape, dtype if plain and dtype != "auto" else None) / (tensor * pipeline)
    context = _tokens(flags.get("max_model_len")) or shape.max_tokens
    block = int(flags.get("block_size") or 16)
    kv = sequence_kv_bytes(
        shape, context, kv_dtype=str(flags.get("kv_cache_dtype", "auto")), tensor_parallel=tensor, block_tokens=block
    )
    return weights, kv / pipeline, context, tensor * pipeline


def _tokens(value: Any) -> int | None:
    """8192, 8k (8,000) and 8K (8,192), as vLLM reads them; one token where the server chooses the length itself."""
    if value is None:
        return None
    found = re.fullmatch(r"([\d.]+)([kmgKMG]?)", str(value))
    return int(float(found[1]) * _UNITS.get(found[2], 1)) if found else 1
