"""report.md: the report for a pull request, in GitHub's Markdown. No figures: those are in report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.records import CapacityResult, Cell, CostReport, RunSummary
from harness.report import capacity, formats
from harness.report.formats import md_code, md_text
from harness.report.run import hosted, hybrids, replicas, sections, sides_page
from harness.report.run.answer import find_answer, price_line
from harness.report.run.cells import Row, absent_reasons, price_words, rows, shown_columns, spread_text, unit_and_writer
from harness.report.run.sides import sides

_MARKS = {"VALID": "✅ VALID", "INVALID": "❌ INVALID", "UNKNOWN": "❔ UNKNOWN", "NONE": "❔ no run"}
_MAX_LISTED = 12


def markdown(
    title: str,
    summaries: Sequence[RunSummary],
    costs: Sequence[CostReport],
    *,
    allow_invalid: bool = False,
    capacities: Sequence[tuple[Cell, CapacityResult]] = (),
) -> str:
    """The report as Markdown: answer, results, cost, validity, tokens, provenance. Words from outside are escaped."""
    table = rows(summaries, costs, allow_invalid=allow_invalid)
    best = find_answer(summaries, costs, allow_invalid=allow_invalid)
    priced = sections.costs_shown(best, costs, summaries, allow_invalid=allow_invalid)
    parts = [f"# {md_text(title)}", f"**{_MARKS.get(best.verdict, md_text(best.verdict))}** {md_text(best.text)}"]
    if best.run_ids:
        parts.append(f"Run: {md_code(formats.run_ids(best.run_ids))}")
    invalid = sum(run.verdict.state == "INVALID" for run in summaries)
    if invalid:
        parts.append(
            f"> **{invalid} of {len(summaries)} runs are INVALID.** Their numbers are marked and not to be trusted."
        )
    parts += ["## Results", results_table(table)]
    if table:
        parts.append("\n".join(f"- {header}: {md_text(text)}" for header, text in price_words(table, costs)))
        parts.append("\n".join(f"- row {index}: {_ids(row)}" for index, row in enumerate(table, 1)))
    for policies in hybrids.policy_tables(table, costs):
        parts += [f"## Policies: {md_text(hybrids.cell_words(policies))}", hybrids.markdown(policies)]
    for several in replicas.replica_tables(table):
        parts += [f"## Replicas: {md_text(replicas.cell_words(several))}", replicas.markdown(several)]
    parts += _hosted(summaries)
    for found in sides(summaries, costs, allow_invalid=allow_invalid):
        parts += [f"## Own and hosted: {md_text(found.workload)}"]
        parts.append(sides_page.markdown(found, costs, allow_invalid=allow_invalid))
    for words, sentence in capacity.together(capacities):
        parts += [f"## Capacity: {md_text(words)}", md_text(sentence)]
    for cell, result in capacities:
        parts += [f"## Capacity: {md_text(capacity.cell_words(cell))}", capacity.markdown(result)]
    parts += ["## Cost", _cost(priced)]
    parts += ["## Validity", _validity(summaries)]
    parts += ["## Token accounting", _tokens(summaries)]
    parts += ["## Environment", _environment(summaries)]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _hosted(summaries: Sequence[RunSummary]) -> list[str]:
    """The sections of targets at a URL; none for servers of ours."""
    parts: list[str] = []
    if network := hosted.network_rows(summaries):
        parts += [f"## {hosted.NETWORK_TITLE}", _plain_table(hosted.NETWORK_HEADERS, network), hosted.NETWORK_NOTE]
    if sentences := hosted.account_sentences(summaries):
        parts += [f"## {hosted.ACCOUNT_TITLE}", "\n".join(f"- {md_text(text)}" for text in sentences)]
    if limits := hosted.account_rows(summaries):
        parts.append(_plain_table(hosted.ACCOUNT_HEADERS, limits))
    return parts


def _plain_table(headers: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    return "\n".join([*lines, *("| " + " | ".join(map(md_text, texts)) + " |" for texts in table)])


def results_table(table: Sequence[Row]) -> str:
    """The results table in GitHub's Markdown, with the reasons of every "-" below it."""
    if not table:
        return "No runs, so no results.\n"
    columns = shown_columns(table)
    writers = [unit_and_writer(column, table) for column in columns]
    headers = ["#", "target", "workload", "load", "n"]
    headers += [
        c.header + (f" ({unit})" if c.unit != "USD" else "") for c, (unit, _) in zip(columns, writers, strict=True)
    ]
    headers.append("verdict")
    lines = ["| " + " | ".join(headers) + " |", "|---|---|---|---|" + "---:|" * (len(columns) + 1) + "---|"]
    for index, row in enumerate(table, 1):
        texts = [
            str(index),
            formats.md_code(row.target, cell=True),
            formats.md_code(row.workload, cell=True),
            formats.load_words(row.load),
            str(len(row.used)),
        ]
        for column, (_, write) in zip(columns, writers, strict=True):
            middle, between = spread_text(row.values.get(column.key), write)
            texts.append(f"{middle}<br><sub>{between}</sub>" if between else middle)
        texts.append(
            row.verdict if row.verdict == "VALID" and len(row.used) == len(row.runs) else f"**{row.verdict_words}**"
        )
        lines.append("| " + " | ".join(texts) + " |")
    numbers = {id(row): str(index) for index, row in enumerate(table, 1)}
    notes = [
        f'- {headers} is "-" in {"all rows" if len(where) == len(table) else "row " + ", ".join(numbers[id(r)] for r in where)}: '
        + formats.md_text(why)
        for headers, why, where in absent_reasons(table, columns)
    ]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def _ids(row: Row) -> str:
    left_out = [run.run_id for run in row.runs if run not in row.used]
    text = md_code(formats.run_ids([run.run_id for run in row.used]))
    return text + (f"; **INVALID, not used:** {md_code(formats.run_ids(left_out))}" if left_out else "")


def _cost(costs: Sequence[CostReport]) -> str:
    if not costs:
        return "No cost was computed."
    cost = costs[0]
    flag = "" if cost.verdict == "VALID" else f" **{md_text(cost.verdict)}**"
    lines = [
        f"Of run {md_code(cost.run_id)}{flag}: {md_text(price_line(cost))}; declared utilisation {formats.percent(cost.utilisation)}.",
        "",
    ]
    lines += ["| | | | formula | inputs |", "|---|---:|---|---|---|"]
    for name, group in (("own machine", cost.own), *cost.hosted.items()):
        basis = f", {cost.basis[name]}" if name in cost.basis else ""
        before: Mapping[str, str] = {}
        for line in group:
            inputs = (
                "as above"
                if line.inputs == before
                else ", ".join(f"{key} = {value}" for key, value in line.inputs.items())
            )
            before = line.inputs
            amount = md_text(formats.usd(line.usd))
            lines.append(
                f"| {md_code(name, cell=True)}{basis} | {amount} | {md_text(f'{line.unit}, {line.label}')} | {md_text(line.formula)} | {md_text(inputs)} |"
            )
    lines += ["", *(f"- {md_text(warning)}" for warning in cost.warnings)]
    if len(costs) > 1:
        lines += ["", f"The costs of {len(costs) - 1} more runs are in report.html."]
    return "\n".join(lines)


def _validity(summaries: Sequence[RunSummary]) -> str:
    lines = []
    for finding in sections.findings(summaries):
        lines.append(
            f"- **{md_text(finding.severity)}** {md_code(finding.code)}"
            + (f": {md_text('; '.join(finding.advice))}" if finding.advice else "")
        )
        for message, runs in finding.messages[:_MAX_LISTED]:
            lines.append(f"  - {md_text(message)} ({md_code(formats.run_ids([run.run_id for run in runs]))})")
        if len(finding.messages) > _MAX_LISTED:
            lines.append(f"  - and {len(finding.messages) - _MAX_LISTED} more, in report.html")
    return "\n".join(lines) or "Nothing was found against any run."


def _tokens(summaries: Sequence[RunSummary]) -> str:
    lines = sections.token_lines(summaries)
    text = [sections.token_verdict(lines)]
    unequal = [line for line in lines if line.agrees is not True][:_MAX_LISTED]
    if unequal:
        text += ["", "| run | tokens | planned | counted | usage | server |", "|---|---|---:|---:|---:|---:|"]
    for line in unequal:
        check = line.check
        counts = (formats.number(count) for count in (check.planned, check.counted, check.usage, check.server_counter))
        text.append(f"| {md_code(line.run.run_id, cell=True)} | {md_text(check.kind)} | {' | '.join(counts)} |")
    return "\n".join(text)


def _environment(summaries: Sequence[RunSummary]) -> str:
    lines = []
    for target, startup in sections.startups(summaries):
        times = ", ".join(
            f"{md_text(name.removesuffix('_s'))} {formats.duration(value)}" for name, value in startup.items()
        )
        lines.append(f"- cold start of {md_code(target)}: {times}")
    for fact in sections.facts([run.environment for run in summaries]):
        values = ", ".join(
            md_code(value) + (f" ({count} runs)" if len(fact.values) > 1 else "")
            for value, count in fact.values[:_MAX_LISTED]
        )
        lines.append(f"- {md_text(fact.name)}: {values}")
    return (
        "<details><summary>versions, machine, cold start</summary>\n\n"
        + ("\n".join(lines) or "nothing recorded")
        + "\n\n</details>"
    )
