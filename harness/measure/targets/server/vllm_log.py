"""What vLLM's log says: how far a start has come, which kernels it will run, how long the weights took, and why a server died.

What it says of kernels follows format strings of vLLM 0.24, 0.28, 0.32 and 0.33 (`platforms/cuda.py`, `utils/flashinfer.py`,
`v1/sample/ops/topk_topp_sampler.py`, `v1/worker/`, `config/vllm.py`, `config/compilation.py`, `model_executor/layers/fused_moe/`).
Before 0.32 a FlashInfer that cannot be used is told at level DEBUG only: there no word of it means nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_TAIL_BYTES = 400_000
_CAUSE_CHARS = 500

# "(EngineCore pid=12) ERROR 11-24 11:55:33 [core.py:133] " before what was said
_PREFIX = re.compile(
    r"^(?:\([^()]*pid=\d+\)\s*)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:.]+ \[[^\]]*\] ?)?",
)
# A traceback logged at these levels was survived.
_MILD = re.compile(r"^(?:\([^()]*pid=\d+\)\s*)?(?:DEBUG|INFO|WARNING) [\d-]+ ")
_UP = "Application startup complete"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt)\b(?:: .*|:?$)")
_ARGPARSE = re.compile(r"^\S*: error: (.+)$")
# Raised by whoever notices that another process failed: never the cause itself.
_ECHO = re.compile(
    r"Engine core initialization failed|See root cause|see stack trace|EngineDeadError|WorkerProc initialization failed"
    r"|Executor failed|^(?:asyncio\.)?CancelledError|^(?:\w+\.)*KeyboardInterrupt|RuntimeError: Worker failed",
    re.IGNORECASE,
)
_WEIGHTS = re.compile(r"Loading weights took ([\d.]+) seconds")
_PHASES = (
    (re.compile(_UP), "up, waiting for the first token"),
    (re.compile(r"Capturing CUDA graphs[^%]*?(\d+)%"), "capturing CUDA graphs, {} %"),
    (re.compile(r"Capturing CUDA graph|Graph capturing finished", re.IGNORECASE), "capturing CUDA graphs"),
    (
        re.compile(r"(DeepGEMM warmup|Compiling CuTeDSL kernels|JIT kernel warmup)[^%]*?(\d+)%"),
        "compiling kernels, {}, {} %",
    ),
    (
        re.compile(r"JIT kernel warmup starting|Warming up FlashInfer|Autotuning process starts|Loading JIT ops"),
        "compiling kernels",
    ),
    (
        re.compile(
            r"Starting torch\.compile|Warming up model for the compilation|torch\.compile takes|Compiling a graph|Dynamo bytecode|Start compiling",
            re.IGNORECASE,
        ),
        "compiling",
    ),
    (re.compile(r"KV cache size: ([\d,]+) tokens"), "warming up, KV cache of {} tokens"),
    (re.compile(r"Loading (?:safetensors|pt) checkpoint shards: +(\d+)% Completed"), "loading weights, {} %"),
    (re.compile(r"Fetching \d+ files: +(\d+)%|\.(?:safetensors|bin|gguf): +(\d+)%\|"), "downloading weights, {} %"),
    (re.compile(r"Time spent downloading weights for \S+: ([\d.]+) seconds"), "downloaded weights in {} s"),
    (re.compile(r"Pulling from (\S+)|Trying to pull (\S+)"), "pulling the image {}"),
    (re.compile(r"Loading weights took ([\d.]+) seconds"), "weights loaded in {} s"),
    (re.compile(r"Starting to load model"), "loading weights"),
    (re.compile(r"Initializing a V1 LLM engine"), "starting the engine"),
    (re.compile(r"Resolved architecture: (\w+)"), "reading the model's config ({})"),
)


def bare(line: str) -> str:
    """A line without colours and without vLLM's prefix of process, level, time and place."""
    return _PREFIX.sub("", _ANSI.sub("", line)).rstrip()


def phase(text: str) -> str | None:
    """What the newest telling line in `text` says the server is doing; None if no line tells."""
    for line in reversed(text.replace("\r", "\n").splitlines()):
        for pattern, words in _PHASES:
            if match := pattern.search(line):
                return words.format(*(group for group in match.groups() if group is not None))
    return None


def weights_s(text: str) -> float | None:
    """Seconds the server says it took to load weights (the slowest of its workers); None where it does not say."""
    return max((float(s) for s in _WEIGHTS.findall(text)), default=None)


def tail(path: Path) -> str:
    """The last part of a log, empty where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _with_details(lines: list[str], at: int) -> str:
    """An exception's line and, where it stops at a colon or counts errors (pydantic), the indented lines after it."""
    words = [lines[at].strip()]
    for line in lines[at + 1 : at + 4]:
        if not line.startswith(" ") or line.lstrip().startswith(("File ", "^", "For further information")):
            break
        words.append(line.strip())
    return " ".join(words)[:_CAUSE_CHARS]


def cause(path: Path) -> str:
    """The line of a dead server's log that says why: a bad argument or the real exception, else its last lines.

    While a server starts, its first exception is the cause and later ones are its echoes. One that was up may have
    logged exceptions of single requests before: there the last one counts.
    """
    raw = [line for line in tail(path).splitlines() if line.strip()]
    up = max((at for at, line in enumerate(raw) if _UP in line), default=None)
    lines = [bare(line) for line in raw[up or 0 :] if not _MILD.match(_ANSI.sub("", line))]
    if bad_argument := next((match for line in lines if (match := _ARGPARSE.match(line))), None):
        return bad_argument.group(1)[:_CAUSE_CHARS]
    exceptions = [at for at, line in enumerate(lines) if _EXCEPTION.match(line)]
    if real := [at for at in exceptions if not _ECHO.search(lines[at])]:
        return _with_details(lines, real[0] if up is None else real[-1])
    if exceptions:
        return lines[exceptions[-1]][:_CAUSE_CHARS]
    last = [bare(line) for line in raw[-3:]]
    return f"its log ends: {' | '.join(last)[-_CAUSE_CHARS:]}" if last else "its log is empty"


def advice(why: str) -> str:
    """What to try about a cause of death."""
    low = why.lower()
    if "unrecognized arguments" in low or "invalid choice" in low or "error: argument" in low or "argument --" in low:
        return "correct the target's flags: this vLLM does not take it"
    if "out of memory" in low or "no available memory" in low or "sigkill" in low or "free memory on device" in low:
        return "less memory: lower max_model_len, gpu_memory_utilization or max_num_seqs, or use a smaller model"
    if "address already in use" in low:
        return "another process took the port meanwhile: start again or set another port"
    if "max_model_len" in low or "max seq len" in low:
        return "lower max_model_len in the target's flags"
    if "offline" in low or "localentrynotfound" in low or "couldn't connect" in low:
        return "the model is not in the local cache: download it first, or set env HF_HUB_OFFLINE: '0' for this target"
    return "read the log; `vllm serve --help=all` lists the flags"


# ---------------------------------------------------------------- kernels

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
_KERNEL_CHARS = 300


def start_facts(log: str) -> dict[str, str]:
    """attention_backend, flashinfer, cuda_graphs, slow_path: each only where the log says something of it. Where it says several things of
    FlashInfer, they are joined by `; `; of slow paths, each once."""
    attention: dict[str, None] = {}
    flashinfer: dict[str, None] = {}
    slow: dict[str, None] = {}
    graphs = none = ""
    for raw in log.splitlines():
        line = bare(raw)
        if match := _ATTENTION.match(line):
            attention[f"{match[1]}{f', of {match[2]}' if match[2] else ''}"] = None
        elif match := _GRAPHS.match(line):
            graphs = f"captured in {match[1]} s, {match[2]} GiB"
        elif words := _words(_NO_GRAPHS, line):
            none = none or words
        elif words := _words(_FLASHINFER, line):
            flashinfer[words] = None
        elif _SLOW.search(line):
            slow[line[:_KERNEL_CHARS]] = None
    facts = {
        "attention_backend": "; ".join(attention),
        "flashinfer": "; ".join(flashinfer),
        "cuda_graphs": graphs or none,
        "slow_path": "; ".join(slow),
    }
    return {name: text[: 2 * _KERNEL_CHARS] for name, text in facts.items() if text}


def _words(table: tuple[tuple[re.Pattern[str], str], ...], line: str) -> str | None:
    for pattern, words in table:
        if match := pattern.search(line):
            return words.format(*match.groups())
    return None
