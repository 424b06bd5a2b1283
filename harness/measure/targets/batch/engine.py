"""vLLM's engine as a target: `vllm.LLM` in a process of its own, a plan cut into `LLM.generate` calls, its results told as rows.

The process is the server of a `vllm` target in every other way: same model words, flags and environment, the same guard
that ends it with the harness, its log, and the same prompts, so that what differs is the way in alone.

The whole batch is handed over at once, so `sent_ns` of every row is the moment the batch began: in which order and in how
many calls it reaches the engine is the engine's own affair, and waiting for an earlier group is part of a request's time.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.base import clock
from harness.base.errors import ConfigError, TargetError
from harness.base.files import cache_dir
from harness.config.target import TargetSpec
from harness.measure.job import Job, Watcher
from harness.measure.targets import command, interpreter
from harness.measure.targets.batch.rows import Batch
from harness.measure.targets.batch.worker import ARGUMENTS, write_json
from harness.measure.targets.server import records, vllm_log
from harness.measure.targets.server.process import spawn
from harness.measure.targets.server.start import Patience, Start, compare_flags
from harness.measure.targets.target import Target
from harness.measure.targets.vocabulary import read_words
from harness.records import (
    DriveProgress,
    DriveReport,
    Endpoint,
    PlannedRequest,
    Startup,
    TargetInfo,
    Vocabulary,
)

Order = Literal["as_planned", "grouped_by_length", "sorted"]
POST_BATCH_SIZE = 256  # the post's max_num_seqs: its _group_by_length is called but not shown, and names no size
_POLL_S = 0.02
_SAY_EVERY_S = 5.0
_SERVER_ONLY = ("enable_prompt_tokens_details", "no_enable_prompt_tokens_details")  # not engine arguments
_NOTES = (
    "offline: chunk_ns holds the engine's stamps of the first and the last token, the latter for all between: ICL is decode time",
    "offline: sent_ns is when the batch was handed over, ended_ns when the LLM.generate call with the reply returned",
)


@dataclass(frozen=True, slots=True)
class BatchTarget(Target):
    """A target whose engine takes batches through files in `control`, which is removed when the target is closed."""

    control: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        Target.close(self)
        if self.control:
            self.control.cleanup()


def arguments(model: command.Model, flags: dict[str, Any]) -> list[str]:
    """Engine arguments as command-line words for vLLM's own parser: True is a bare flag, False `--no-flag`."""
    return [f"--model={model.argument}", *command.flag_words(flags)]


def start(spec: TargetSpec, log_path: Path, say: Callable[[str], None]) -> BatchTarget:
    """Start the engine of `spec` (model, flags, env, start_timeout_s) and return when it has made its first token.

    `startup`: process_s and weights_s as for a server, ready_s when `vllm.LLM` stood. Raises ConfigError for words that
    cannot be used, TargetError where vLLM or the model is missing or the engine dies, hangs or is not what was asked for;
    nothing of it is left running then.
    """
    env = command.environment(spec)
    interpreter.find(None, env)
    folder = cache_dir("servers")
    records.reap_orphans(folder, say)
    model = command.resolve_model(spec, env, say)
    flags = {name: value for name, value in command.flags(spec, model).items() if name not in _SERVER_ONLY}
    control = tempfile.TemporaryDirectory(prefix="offline-")
    place = Path(control.name)
    try:
        write_json(place / "spec.json", {"words": read_words()})
        env |= {ARGUMENTS: json.dumps(arguments(model, flags))}
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            started_ns = clock.monotonic_ns()
            server = spawn(command_line(place), env, folder, log_path)
        except OSError as error:
            raise ConfigError("the engine's log cannot be written", log_path, str(error.strerror)) from None
    except BaseException:
        control.cleanup()
        raise
    patience = Patience(spec.ready_silence_s, spec.start_timeout_s)
    say(f"{spec.name}: starting an offline engine with {spec.model}, pid {server.pid}, log {log_path}")
    try:
        at = Start(spec.name, "the offline engine", server, patience, say, started_ns)
        at.wait((place / "ready.json").exists)
        ready = json.loads((place / "ready.json").read_text(encoding="utf-8"))
        words: dict[str, int] = ready["vocabulary"]
        if not words:
            raise TargetError(
                "too few words are one token for this model",
                spec.model,
                "its tokenizer cannot be used for exact prompts",
            )
        checks = compare_flags(flags, ready["settings"], "engine")
    except BaseException:
        server.close()
        control.cleanup()
        raise
    ready_s, first_s = ((ready[name] - started_ns) / clock.NS for name in ("built_ns", "first_token_ns"))
    weights_s = vllm_log.weights_s(server.log())
    source = f"the engine's tokenizer: {len(words)} of {len(read_words())} words are one token each, also when joined"
    info = TargetInfo(
        name=spec.name,
        kind="offline",
        base_url="",
        model=command.served_name(flags),
        max_model_len=int(ready["settings"]["max_model_len"]),
        server_version=ready["version"],
        flags={"model": spec.model, **flags},
        cache_config=ready["settings"],
        pids=server.note_members(),
        startup=Startup(at.process_s if at.process_s is not None else at.elapsed_s(), weights_s, ready_s, first_s),
        metrics_url=None,
        checks=checks | {"vocabulary": source},
    )
    say(f"{spec.name}: ready in {ready_s:.1f} s, first token after {first_s:.1f} s")
    endpoint = Endpoint("", info.model, "completions", None, vllm_extensions=True)
    vocabulary = Vocabulary(tuple(words), tuple(words.values()), 0, source)
    return BatchTarget(info, endpoint, vocabulary, log_path, server, control)


def command_line(folder: Path) -> list[str]:
    """The worker's command, for one control directory."""
    return [sys.executable, "-P", "-m", "harness.measure.targets.batch.worker", str(folder)]


# ---------------------------------------------------------------- one batch


def cut(requests: Sequence[PlannedRequest], order: Order, batch_size: int = POST_BATCH_SIZE) -> list[list[int]]:
    """Positions in `requests`, one list a `LLM.generate` call. `as_planned`: one call in the plan's order; `sorted`: one call
    by prompt length; `grouped_by_length`: that order cut every `batch_size`, the next group begun when the last one is done.

    Raises ConfigError for a batch size below 1. Equal lengths keep the plan's order.
    """
    if batch_size < 1:
        raise ConfigError("batch size out of range", batch_size, "requests in a group, 1 or more")
    planned = list(range(len(requests)))
    by_length = sorted(planned, key=lambda i: requests[i].target_prompt_tokens)
    if not planned:
        return []
    match order:
        case "as_planned":
            return [planned]
        case "sorted":
            return [by_length]
        case "grouped_by_length":
            return [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]


def _orders(job: Job, calls: list[list[int]]) -> list[list[Any]]:
    """What the worker is told: per call its requests, each as its output tokens and its prompt's ids. Raises ConfigError."""
    by_seq = {prompt.seq: prompt for prompt in job.prompts}
    orders = []
    for call in calls:
        members = []
        for request in (job.requests[i] for i in call):
            prompt = by_seq.get(request.seq)
            if prompt is None or not prompt.token_ids:
                raise ConfigError(
                    "an offline engine is sent token ids", f"seq {request.seq} has none", "use api: completions"
                )
            members.append([request.target_output_tokens, list(prompt.token_ids)])
        orders.append(members)
    return orders


def run_batch(
    job: Job,
    watcher: Watcher,
    target: Target,
    *,
    order: Order = "as_planned",
    batch_size: int = POST_BATCH_SIZE,
    say: Callable[[str], None],
) -> DriveReport:
    """Hand the job's requests to the engine of `target`, and return when all have a row.

    The watcher gets the rows of each call as it returns, and is asked every 20 ms whether to stop: `drain` lets the call under
    way end and begins no other; `abort` returns at once, and the caller must close the target. An engine that dies leaves
    truncated rows and stop_reason `target_died`. Raises ConfigError for a target of another kind, and for a plan with times of its
    own or with text prompts.
    """
    if not isinstance(target, BatchTarget) or target.control is None:
        raise ConfigError("not an offline target", target.info.name, "set kind: offline")
    folder = Path(target.control.name)
    if any(r.scheduled_ns or r.after_seq is not None for r in job.requests):
        raise ConfigError(
            "an offline batch has no arrival times", "the plan has", "use arrivals: batch, without sessions"
        )
    calls = cut(job.requests, order, batch_size)
    results, stop_file = job.scratch / "offline-results.jsonl", folder / "stop"
    orders = {"results": str(results.resolve()), "calls": _orders(job, calls)}
    results.touch()
    anchors, cpu_s = [clock.anchor()], clock.process_cpu_s()
    batch = Batch(job.requests, calls, job.phase, job.run_id, clock.monotonic_ns())
    try:
        write_json(folder / "job.json", orders)
        batch.started_ns = clock.monotonic_ns()
        reason, why = _follow(target, batch, results, stop_file, watcher, say)
    finally:
        stop_file.unlink(missing_ok=True)
        results.unlink(missing_ok=True)
    if rows := batch.rest(why, aborted=reason == "interrupted"):
        watcher.rows(rows)
    watcher.ended()
    anchors.append(clock.anchor())
    groups = f", groups of {batch_size}" if order == "grouped_by_length" else ""
    shape = f"offline: {len(calls)} LLM.generate calls, order {order}{groups}"
    return DriveReport(
        driver="offline",
        workers=1,
        started_ns=batch.started_ns,
        ended_ns=clock.monotonic_ns(),
        stamp_source="user",
        stop_reason=reason,
        reads=0,
        merged_reads=0,
        cpu_s=clock.process_cpu_s() - cpu_s,
        parse_cpu_s=None,
        loop_lag_max_s=None,
        late_sends=0,
        largest_clock_step_ns=clock.largest_step_ns(anchors),
        anchors=[(a.monotonic_ns, a.offset_ns, a.error_ns) for a in anchors],
        notes=(shape, *_NOTES, *((why,) if why else ())),
    )


def _follow(
    target: Target,
    batch: Batch,
    results: Path,
    stop_file: Path,
    watcher: Watcher,
    say: Callable[[str], None],
) -> tuple[str, str]:
    """Read results until the job ended, the engine died or we are told to go: (stop_reason, why rows are missing)."""
    said_s, tokens, reason, why = 0.0, 0, "done", ""
    with results.open(encoding="utf-8") as file:
        pending = ""
        while True:
            died, action = (
                target.died(),
                watcher.should_stop(),
            )  # asked before the read, so that no line before is missed
            pending += file.read()
            *lines, pending = pending.split("\n")
            for line in lines:
                if rows := batch.take(json.loads(line)):
                    tokens += sum(row.output_tokens or 0 for row in rows)
                    watcher.rows(rows)
            elapsed_s = (clock.monotonic_ns() - batch.started_ns) / clock.NS
            in_flight = sum(map(len, batch.calls[batch.returned : batch.called]))
            watcher.progress(DriveProgress(batch.done, len(batch.requests), in_flight, batch.failed, tokens, elapsed_s))
            if batch.ended:
                return reason, why
            if died:
                return "target_died", died
            if action == "abort":
                return "interrupted", "stopped by the user"
            if action == "drain" and reason == "done":
                reason, why = "interrupted", "stopped by the user"
                stop_file.touch()
            if elapsed_s - said_s >= _SAY_EVERY_S:
                said_s = elapsed_s
                say(f"{target.info.name}: {batch.done} of {len(batch.requests)} requests after {said_s:.0f} s")
            clock.sleep(_POLL_S)
