"""What a vLLM start says of the kernels that it will run: attention, FlashInfer, CUDA graphs, and what it calls slow itself.

Format strings of vLLM 0.24, 0.28, 0.32 and 0.33 (`platforms/cuda.py`, `utils/flashinfer.py`, `v1/sample/ops/topk_topp_sampler.py`,
`v1/worker/`, `config/vllm.py`, `config/compilation.py`, `model_executor/layers/fused_moe/`). Before 0.32 a FlashInfer that cannot be
used is told at level DEBUG only: there no word of it means nothing.
"""

from __future__ import annotations

import re

from harness.measure.targets.server_log import bare

_ATTENTION = re.compile(
    r"^Using (?:AttentionBackendEnum\.)?(\w+) (?:attention )?backend(?: out of potential backends: (\[.*\])| \(selected via|\.$)"
)
_GRAPHS = re.compile(r"^Graph capturing finished in (\d+) secs, took ([\d.-]+) GiB")
_NO_GRAPHS = (
    (re.compile(r"^Enforce eager set, disabling torch\.compile"), "none: eager"),
    (re.compile(r"^Cudagraph is disabled under eager mode"), "none: eager"),
    (re.compile(r"^(.*; setting cudagraph_mode=NONE.*)"), "none: {}"),
    (re.compile(r"fallback to eager mode"), "none: fell back to eager mode"),
    (re.compile(r"^Skipping (?:encoder and decoder )?CUDA graph capture\."), "none: skipped"),
)
DISABLED, COMPILING, NO_SAMPLING = "disabled", "compiles its kernels", "not used for sampling"
_FLASHINFER = (
    (re.compile(r"^FlashInfer kernels are disabled: (.*?)\. Set CUDA_HOME"), f"{DISABLED}: {{}}"),
    (re.compile(r"^FlashInfer's precompiled kernels are missing or do not match (.*?)\. FlashInfer then"), f"{COMPILING}: {{}}"),
    (re.compile(r"^FlashInfer top-p/top-k sampling unavailable: (.*?); falling back"), f"{NO_SAMPLING}: {{}}"),
    (re.compile(r"^FlashInfer top-p/top-k sampling disabled via (\S+?)\.?$"), f"{NO_SAMPLING}: {{}}"),
    (re.compile(r"^Using FlashInfer for top-p & top-k sampling"), "used for sampling"),
)  # fmt: skip
_SLOW = re.compile(
    r"[Pp]erformance might be sub-optimal|may result in reduced performance|may degrade performance|run with reduced performance"
)
_TEXT_CHARS = 300


def start_facts(log: str) -> dict[str, str]:
    """attention_backend, flashinfer, cuda_graphs, slow_path: each only where the log says something of it. Where it says several things of
    FlashInfer, they are joined by `; `; of slow paths, each once."""
    attention: dict[str, None] = {}
    flashinfer: dict[str, None] = {}
    slow: dict[str, None] = {}
    graphs = none = ""
    for raw in log.splitlines():
        line = bare(raw)
        if found := _ATTENTION.match(line):
            attention[f"{found[1]}{f', of {found[2]}' if found[2] else ''}"] = None
        elif found := _GRAPHS.match(line):
            graphs = f"captured in {found[1]} s, {found[2]} GiB"
        elif said := _said(_NO_GRAPHS, line):
            none = none or said
        elif said := _said(_FLASHINFER, line):
            flashinfer[said] = None
        elif _SLOW.search(line):
            slow[line[:_TEXT_CHARS]] = None
    told = {
        "attention_backend": "; ".join(attention),
        "flashinfer": "; ".join(flashinfer),
        "cuda_graphs": graphs or none,
        "slow_path": "; ".join(slow),
    }
    return {name: words[: 2 * _TEXT_CHARS] for name, words in told.items() if words}


def _said(table: tuple[tuple[re.Pattern[str], str], ...], line: str) -> str | None:
    for pattern, words in table:
        if found := pattern.search(line):
            return words.format(*found.groups())
    return None
