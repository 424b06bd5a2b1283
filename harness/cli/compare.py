"""`harness compare`: a campaign against another; the exit code is what a nightly job acts on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from harness.base.errors import ConfigError, RegressionError
from harness.cli.results import as_json_option, console, emit


class Share(click.ParamType[float]):
    """`2%` or `0.02`, as a share between 0 and 1 (not included)."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", str(value))
        share = None if match is None else float(match[1]) / (100 if match[2] else 1)
        if share is None or not 0 <= share < 1:
            self.fail(f"{value!r} is not a share: write 2% or 0.02", param, ctx)
        return share


@click.command("compare")
@click.argument("base", metavar="BASE")
@click.argument("new", metavar="[NEW]", required=False)
@click.option(
    "--metric", "metrics", multiple=True, help="Metric or point of one: tpot, ttft_s.p99, all  [default: six]"
)
@click.option("--min-effect", type=Share(), default="2%", show_default=True, help="A smaller change does not count.")
@click.option("--alpha", type=Share(), default="5%", show_default=True, help="False alarms of the whole call together.")
@click.option("--base-target", help="Compare only this target of BASE ..")
@click.option("--new-target", help=".. with this one of NEW (of BASE, where NEW is left out).")
@click.option("--ignore", "ignored", multiple=True, help="Compare although this key differs: plan, model, gpu, ..")
@click.option("--strict", is_flag=True, help="Refuse another GPU driver too.")
@click.option(
    "--pairing",
    type=click.Choice(["auto", "paired", "unpaired"]),
    default="auto",
    show_default=True,
    help="Pair repetitions of both sides.",
)
@click.option(
    "--detect",
    "change",
    type=Share(),
    help="How many repetitions it takes to see such a change; NEW, of the same plans, shows what pairing saves.",
)
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write a pull request's comment.")
@click.option("--junit", "junit_path", type=click.Path(path_type=Path), help="Write JUnit XML.")
@as_json_option
def compare_command(
    base: str,
    new: str | None,
    change: float | None,
    base_target: str | None,
    new_target: str | None,
    markdown_path: Path | None,
    junit_path: Path | None,
    as_json: bool,
    **how: Any,
) -> int:
    """Which cells and metrics of NEW regressed against BASE, each with its interval.

    BASE and NEW are run or experiment directories, or DIR@CAMPAIGN_ID (the newest campaign by default); of a capacity search its
    capacity is compared. Exit code 0: no
    regression found, 8: regression, 6: not comparable (the differing key is named), 7: a side has no valid run.
    """
    if change is not None:
        again = (new or base, new_target) if new is not None or new_target is not None else None
        return _detect((base, base_target), again, change, how, as_json=as_json)
    if new is None:
        if base_target is None or new_target is None:
            raise ConfigError(
                "nothing to compare with",
                base,
                "give NEW, or --base-target and --new-target for two targets of one campaign, or --detect 3%",
            )
        new = base
    if (base_target is None) != (new_target is None):
        raise ConfigError(
            "a target was chosen on one side only",
            base_target or new_target,
            "give both --base-target and --new-target (they may be equal)",
        )
    return _compare(base, new, (base_target, new_target), how, markdown_path, junit_path, as_json=as_json)


def _compare(
    base: str,
    new: str,
    targets: tuple[str | None, str | None],
    how: dict[str, Any],
    markdown_path: Path | None,
    junit_path: Path | None,
    *,
    as_json: bool,
) -> int:
    from harness.judge.compare.comparison import compare
    from harness.judge.compare.sides import load_side
    from harness.report import compare as report
    from harness.report.pages import write_whole

    comparison = compare(load_side(base, targets[0]), load_side(new, targets[1]), **how)
    if markdown_path is not None:
        write_whole(markdown_path, report.markdown(comparison))
    if junit_path is not None:
        write_whole(junit_path, report.junit(comparison))
    if as_json:
        emit(report.as_json(comparison))
    else:
        report.render(console(), comparison)
    return RegressionError.exit_code if report.regressed(comparison) else 0


def _detect(
    base: tuple[str, str | None],
    again: tuple[str, str | None] | None,
    change: float,
    how: dict[str, Any],
    *,
    as_json: bool,
) -> int:
    from harness.judge.compare.detect import detect
    from harness.judge.compare.sides import load_side
    from harness.report import detect as report

    side, other = load_side(*base, with_requests=True), None if again is None else load_side(*again)
    plan = detect(side, change, again=other, metrics=how["metrics"], min_effect=how["min_effect"], alpha=how["alpha"])
    if as_json:
        emit(report.as_json(plan))
    else:
        report.render(console(), plan)
    return 0
