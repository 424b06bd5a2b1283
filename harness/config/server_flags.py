"""Flags of a vLLM server by one spelling, and how many GPUs they ask for: tensor x pipeline x data parallel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SIZES = {  # of two names that are given the first counts
    "tensor_parallel_size": ("tensor_parallel_size", "tp"),
    "pipeline_parallel_size": ("pipeline_parallel_size", "pp"),
    "data_parallel_size": ("data_parallel_size", "dp"),
}
_LOCAL = ("data_parallel_size_local", "dpl")  # ranks on this machine, where a server has some elsewhere


def by_name(flags: Mapping[str, Any]) -> dict[str, Any]:
    """`--max-model-len` and `max_model_len` are one flag, under the second name."""
    return {str(name).lstrip("-").replace("-", "_"): value for name, value in flags.items()}


def parallel_sizes(flags: Mapping[str, Any], *, here: bool = False) -> dict[str, int]:
    """The sizes that `flags` name, under vLLM's long names; their product is the GPUs of all machines, with `here` of this one."""
    given, found = by_name(flags), {}
    for size, names in _SIZES.items():
        ordered = (*_LOCAL, *names) if here and size == "data_parallel_size" else names
        value = next((given[name] for name in ordered if str(given.get(name)).isdigit()), None)
        if value is not None:
            found[size] = int(value)
    return found
