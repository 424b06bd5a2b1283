"""The engine of an offline target, in its own process: `python -m harness.measure.targets.batch.worker DIR`.

The variable ARGUMENTS holds vLLM's engine arguments as command-line words, which may be secrets, so that they are in no file;
`DIR/spec.json` holds `words` (the word list). The worker
builds `vllm.LLM`, makes one token, writes `DIR/ready.json` (stamps, settings read back, vocabulary) and then serves one
`DIR/job.json` after the other. A job is `results` (a path) and `calls`: one `LLM.generate` each, a list of requests
[output tokens, prompt token ids]. To `results` it appends JSON lines: `call` and `called_ns` before a call, the same with
`returned_ns`, `error` and `outputs` after it, and `end` last. A file `DIR/stop` ends a job between two calls.

Every `_ns` is on CLOCK_MONOTONIC. The guard above ends this process with the harness.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from harness.base import clock
from harness.base.files import write_whole

_POLL_S = 0.01
ARGUMENTS = "HARNESS_OFFLINE_ARGUMENTS"  # a JSON list
_VOCABULARY_FEWEST = 32  # as for a server: with fewer one-token words prompts would repeat themselves


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that who looks for the file never reads a part of it."""
    write_whole(path, json.dumps(data, separators=(",", ":")), synced=False)


def one_token_words(encode: Callable[[str], list[int]], words: Sequence[str]) -> dict[str, int]:
    """word -> id after a space, for words that are one token both so and at a text's start: the rule of `vocabulary`,
    so that an offline engine and a server of the same model are sent the same ids. Empty where too few words are."""
    starters = [word for word in words if len(encode(word)) == 1]
    if not starters:
        return {}
    lead = encode(f" {starters[0]}")
    after = {word: encode(f" {starters[0]} {word}") for word in starters}
    known = {word: ids[-1] for word, ids in after.items() if ids[:-1] == lead}
    joined = encode("".join(f" {word}" for word in known))[len(lead) - 1 :]
    whole = len(joined) == len(known) and joined[1:] == list(known.values())[1:]
    return known if whole and len(known) >= _VOCABULARY_FEWEST else {}


def _settings(llm: Any) -> dict[str, str]:
    """What the engine really runs with, by the flags' normal names; a setting that this vLLM does not have is left out."""
    config = llm.llm_engine.vllm_config
    wanted = (
        ("max_model_len", config.model_config, "max_model_len"),
        ("dtype", config.model_config, "dtype"),
        ("quantization", config.model_config, "quantization"),
        ("enforce_eager", config.model_config, "enforce_eager"),
        ("max_num_seqs", config.scheduler_config, "max_num_seqs"),
        ("max_num_batched_tokens", config.scheduler_config, "max_num_batched_tokens"),
        ("enable_chunked_prefill", config.scheduler_config, "enable_chunked_prefill"),
        ("async_scheduling", config.scheduler_config, "async_scheduling"),
        ("block_size", config.cache_config, "block_size"),
        ("num_gpu_blocks", config.cache_config, "num_gpu_blocks"),
        ("enable_prefix_caching", config.cache_config, "enable_prefix_caching"),
        ("kv_cache_dtype", config.cache_config, "cache_dtype"),
    )
    return {name: str(getattr(part, field)) for name, part, field in wanted if hasattr(part, field)}


def _facts(output: Any) -> list[Any]:
    """[prompt, cached and output tokens, finish reason, first and last token's stamp in ns]; None where the engine does not tell. Its stamps are seconds of CLOCK_MONOTONIC (v1 RequestStateStats), 0 where nothing was stamped."""
    stats = output.metrics
    stamps = [getattr(stats, name, 0.0) for name in ("first_token_ts", "last_token_ts")]
    only = output.outputs[0]
    return [
        len(output.prompt_token_ids),
        output.num_cached_tokens,
        len(only.token_ids),
        only.finish_reason,
        *(round(stamp * clock.NS) if stamp else None for stamp in stamps),
    ]


def _call(llm: Any, requests: Sequence[tuple[int, list[int]]]) -> tuple[str | None, list[list[Any]]]:
    """One `LLM.generate`: why the engine refused it, or facts of each request. Raises what ends the engine."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    params = [
        SamplingParams(max_tokens=count, min_tokens=count, ignore_eos=True, temperature=0.0) for count, _ in requests
    ]
    prompts = [TokensPrompt(prompt_token_ids=ids) for _, ids in requests]
    try:
        outputs = llm.generate(prompts, params, use_tqdm=False)
    except ValueError as error:  # a request that the engine does not take; what was added of the call is aborted
        return f"{type(error).__name__}: {error}"[:500], []
    return None, [_facts(output) for output in outputs]


def _line(file: TextIO, data: dict[str, Any]) -> None:
    file.write(json.dumps(data, separators=(",", ":")) + "\n")
    file.flush()


def serve(llm: Any, folder: Path, job: dict[str, Any]) -> None:
    """Run a job's calls one after the other; see the module's docstring for what it writes."""
    with Path(job["results"]).open("a", encoding="utf-8") as file:
        for number, requests in enumerate(job["calls"]):
            if (folder / "stop").exists():
                break
            called_ns = clock.monotonic_ns()
            _line(file, {"call": number, "called_ns": called_ns})
            called_ns = clock.monotonic_ns()
            error, outputs = _call(llm, requests)
            returned_ns = clock.monotonic_ns()
            done = {"call": number, "called_ns": called_ns, "returned_ns": returned_ns}
            _line(file, done | {"error": error, "outputs": outputs})
        _line(file, {"end": True})


def build(arguments: list[str]) -> Any:
    """`vllm.LLM` from engine arguments as words, with request stamps on. A wrong word ends the process with argparse's."""
    import vllm
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog="offline"))
    parsed = EngineArgs.from_cli_args(parser.parse_args(arguments))
    parsed.disable_log_stats = False  # without stats a RequestOutput has no stamps
    return vllm.LLM.from_engine_args(parsed)


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    folder = Path(argv[0])
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    import vllm

    imported_ns = clock.monotonic_ns()
    llm = build(json.loads(os.environ.pop(ARGUMENTS)))
    built_ns = clock.monotonic_ns()
    tokenizer = llm.get_tokenizer()
    words = one_token_words(lambda text: list(tokenizer.encode(text, add_special_tokens=False)), spec["words"])
    first = next(iter(words.values()), 0)
    _call(llm, [(1, [first])])
    ready: dict[str, Any] = {"imported_ns": imported_ns, "built_ns": built_ns, "first_token_ns": clock.monotonic_ns()}
    ready |= {"version": vllm.__version__, "settings": _settings(llm), "vocabulary": words}
    write_json(folder / "ready.json", ready)
    while True:
        try:
            job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            clock.sleep(_POLL_S)
            continue
        (folder / "job.json").unlink()
        serve(llm, folder, job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
