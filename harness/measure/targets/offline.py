"""An offline target: `vllm.LLM` in a process of its own, given whole batches (see offline_batch) instead of requests.

The process is the server of a `vllm` target in every other way: same model words, flags and environment, the same guard
that ends it with the harness, its log, and the same prompts, so that what differs is the way in alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.cache import cache_dir
from harness.base.errors import ConfigError, TargetError
from harness.config.target import TargetSpec
from harness.measure.targets import command, interpreter, server_log, servers
from harness.measure.targets.offline_batch import POST_BATCH_SIZE, Order, run_batch
from harness.measure.targets.offline_rows import OfflineReport
from harness.measure.targets.offline_worker import ARGUMENTS, write_whole
from harness.measure.targets.patience import Patience
from harness.measure.targets.process import ServerProcess, spawn
from harness.measure.targets.target import Target
from harness.measure.targets.vocabulary import read_words
from harness.records import (
    DriveProgress,
    Endpoint,
    Phase,
    PlannedRequest,
    Prompt,
    RequestRecord,
    Startup,
    TargetInfo,
    Vocabulary,
)

_POLL_S = 0.1
_SAY_EVERY_S = 5.0
_SERVER_ONLY = ("enable_prompt_tokens_details", "no_enable_prompt_tokens_details")  # not engine arguments

PromptMaker = Callable[[Sequence[PlannedRequest], Vocabulary, str], Iterable[Prompt]]


@dataclass(frozen=True, slots=True)
class OfflineTarget(Target):
    """A target whose engine takes batches through files in `control`, which is removed when the target is closed."""

    control: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        Target.close(self)
        if self.control:
            self.control.cleanup()


def arguments(model: command.Model, asked: dict[str, Any]) -> list[str]:
    """Engine arguments as command-line words for vLLM's own parser: True is a bare flag, False `--no-flag`."""
    return [f"--model={model.argument}", *command.flag_words(asked)]


def _wait(spec: TargetSpec, server: ServerProcess, folder: Path, started_ns: int, say: Callable[[str], None]) -> float:
    """Until ready.json is there; returns seconds from the spawn to the log's first bytes. Raises TargetError."""
    process_s: float | None = None
    said_s, phase, log = -_SAY_EVERY_S, "starting Python", server.log_path
    patience = Patience(spec.ready_silence_s, spec.start_timeout_s)
    while not (folder / "ready.json").exists():
        elapsed_s = (clock.monotonic_ns() - started_ns) / clock.NS
        if why := server.died():
            raise TargetError("the offline engine died while starting", why, f"{server_log.advice(why)}; log: {log}")
        size = log.stat().st_size
        if lost := patience.lost(elapsed_s, size, "the offline engine"):
            raise TargetError(lost.what, f"last seen: {phase}; {server_log.cause(log)}", f"{lost.advice}; log: {log}")
        if process_s is None and size:
            process_s = elapsed_s
        if elapsed_s - said_s >= _SAY_EVERY_S:
            said_s, phase = elapsed_s, server_log.phase(server_log.tail(log)) or phase
            say(f"{spec.name}: {phase} ({elapsed_s:.0f} s)")
            server.note_members()
        clock.sleep(_POLL_S)
    return process_s if process_s is not None else (clock.monotonic_ns() - started_ns) / clock.NS


def _checks(asked: dict[str, Any], settings: dict[str, str]) -> dict[str, str]:
    """Asked flags against what the engine runs with. Raises TargetError if the context length is another one."""
    seen: dict[str, str] = {}
    for name, runs_with in settings.items():
        value = asked.get(name, not asked[f"no_{name}"] if f"no_{name}" in asked else None)
        if value is not None:
            same = "" if str(value).lower() == runs_with.lower() else " (differs)"
            seen[name] = f"asked {value}, engine says {runs_with}{same}"
    length = str(asked.get("max_model_len", ""))
    if length.isdigit() and settings.get("max_model_len") != length:
        raise TargetError(
            "the engine runs with another max_model_len", seen["max_model_len"], "report it with the engine's log"
        )
    return seen


def start(spec: TargetSpec, log_path: Path, say: Callable[[str], None]) -> OfflineTarget:
    """Start the engine of `spec` (model, flags, env, start_timeout_s) and return when it has made its first token.

    `startup`: process_s and weights_s as for a server, ready_s when `vllm.LLM` stood. Raises ConfigError for words that
    cannot be used, TargetError where vLLM or the model is missing or the engine dies, hangs or is not what was asked for;
    nothing of it is left running then.
    """
    env = command.environment(spec)
    interpreter.find(None, env)
    records = cache_dir("servers")
    servers.reap_orphans(records, say)
    model = command.resolve_model(spec, env, say)
    asked = {name: value for name, value in command.flags(spec, model).items() if name not in _SERVER_ONLY}
    control = tempfile.TemporaryDirectory(prefix="offline-")
    folder = Path(control.name)
    try:
        write_whole(folder / "spec.json", {"words": read_words()})
        env |= {ARGUMENTS: json.dumps(arguments(model, asked))}
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            started_ns = clock.monotonic_ns()
            server = spawn(command_line(folder), env, records, log_path)
        except OSError as error:
            raise ConfigError("the engine's log cannot be written", log_path, str(error.strerror)) from None
    except BaseException:
        control.cleanup()
        raise
    say(f"{spec.name}: starting an offline engine with {spec.model}, pid {server.pid}, log {log_path}")
    try:
        process_s = _wait(spec, server, folder, started_ns, say)
        ready = json.loads((folder / "ready.json").read_text(encoding="utf-8"))
        words: dict[str, int] = ready["vocabulary"]
        if not words:
            raise TargetError(
                "too few words are one token for this model",
                spec.model,
                "its tokenizer cannot be used for exact prompts",
            )
        checks = _checks(asked, ready["settings"])
    except BaseException:
        server.close()
        control.cleanup()
        raise
    ready_s, first_s = ((ready[name] - started_ns) / clock.NS for name in ("built_ns", "first_token_ns"))
    weights_s = server_log.weights_s(server.log())
    source = f"the engine's tokenizer: {len(words)} of {len(read_words())} words are one token each, also when joined"
    info = TargetInfo(
        name=spec.name,
        kind="offline",
        base_url="",
        model=command.served_name(asked),
        max_model_len=int(ready["settings"]["max_model_len"]),
        server_version=ready["version"],
        flags={"model": spec.model, **asked},
        cache_config=ready["settings"],
        pids=server.note_members(),
        startup=Startup(process_s, weights_s, ready_s, first_s),
        metrics_url=None,
        checks=checks | {"vocabulary": source},
    )
    say(f"{spec.name}: ready in {ready_s:.1f} s, first token after {first_s:.1f} s")
    endpoint = Endpoint("", info.model, "completions", None, vllm_extensions=True)
    vocabulary = Vocabulary(tuple(words), tuple(words.values()), 0, source)
    return OfflineTarget(info, endpoint, vocabulary, log_path, server, control)


def command_line(folder: Path) -> list[str]:
    """The worker's command, for one control directory."""
    return [sys.executable, "-P", "-m", "harness.measure.targets.offline_worker", str(folder)]


def _quiet(_: DriveProgress) -> None:
    return None


def batch(
    target: Target,
    requests: Sequence[PlannedRequest],
    prompts: Iterable[Prompt],
    *,
    order: Order = "as_planned",
    batch_size: int = POST_BATCH_SIZE,
    phase: Phase = Phase.MEASURE,
    run_id: str,
    scratch: Path,
    on_rows: Callable[[Sequence[RequestRecord]], None],
    should_stop: Callable[[], str | None],
    say: Callable[[str], None],
    on_progress: Callable[[DriveProgress], None] = _quiet,
) -> OfflineReport:
    """One batch through a started engine: see offline_batch.run_batch. Raises ConfigError if the target is not offline."""
    if not isinstance(target, OfflineTarget) or target.control is None:
        raise ConfigError("not an offline target", target.info.name, "set kind: offline")
    folder = Path(target.control.name)
    return run_batch(
        target,
        folder,
        requests,
        prompts,
        order=order,
        batch_size=batch_size,
        phase=phase,
        run_id=run_id,
        scratch=scratch,
        on_rows=on_rows,
        on_progress=on_progress,
        should_stop=should_stop,
        say=say,
    )


def run_offline(
    spec: TargetSpec,
    requests: Sequence[PlannedRequest],
    prompts: PromptMaker,
    *,
    warmup: Sequence[PlannedRequest] = (),
    order: Order = "as_planned",
    batch_size: int = POST_BATCH_SIZE,
    run_id: str = "offline",
    scratch: Path,
    on_rows: Callable[[Sequence[RequestRecord]], None],
    should_stop: Callable[[], str | None],
    say: Callable[[str], None],
) -> tuple[TargetInfo, OfflineReport]:
    """Engine started, warm-up, one batch, engine ended: for one batch alone. `prompts` is `plan.prompts.prompts`, asked when
    the engine's vocabulary is known. The log is `scratch`/server.log. Raises as `start` and `batch` do."""
    with start(spec, scratch / "server.log", say) as target:
        said = {"run_id": run_id, "scratch": scratch, "on_rows": on_rows, "should_stop": should_stop, "say": say}

        def one(part: Sequence[PlannedRequest], phase: Phase, how: Order) -> OfflineReport:
            made = prompts(part, target.vocabulary, "completions")
            return batch(target, part, made, order=how, batch_size=batch_size, phase=phase, **said)  # type: ignore[arg-type]

        if warmup:
            one(warmup, Phase.WARMUP, "as_planned")
        return target.info, one(requests, Phase.MEASURE, order)
