"""A published throughput table beside what was measured here: values alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One published figure and ours. `column`: single_stream | aggregate. `unit` is the source's; measured is converted to it.

    measured: the median over the repetitions that are not INVALID, between `lowest` and `highest`; None: `absent` says why.
    ratio: measured / published, None where either is missing.
    """

    metric: str
    statistic: str | None
    column: str
    column_stated: bool
    unit: str
    published: float | None
    measured: float | None
    lowest: float | None
    highest: float | None
    ratio: float | None
    absent: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Why published and measured may differ: one field. `published` is None where the source does not say."""

    field: str
    published: str | None
    here: str


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One row of the table. `state`: measured | unknown (measured, no run of it VALID) | invalid | failed | skipped |
    not_run | would_run; `reasons` say why it is not the first, and which runs were not used."""

    name: str
    label: str
    model: str
    workload: str
    load: str
    state: str
    reasons: tuple[str, ...]
    figures: tuple[ComparedFigure, ...]
    differences: tuple[Difference, ...]
    run_ids: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class ComparedTable:
    """The whole table. `seconds`: of measuring that the rows which would run take, without starts; None if not known."""

    table: str
    title: str
    source: str
    url: str
    date: str | None
    source_note: str
    machine: str
    rows: tuple[ComparedRow, ...]
    problems: tuple[str, ...] = ()
    dry_run: bool = False
    seconds: float | None = None
