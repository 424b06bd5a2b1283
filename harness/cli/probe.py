"""`harness probe`: what an API at a URL does, and a preset of it; `harness targets`: the presets that there are."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from harness.base import redaction
from harness.base.documents import dump_yaml
from harness.cli.max_usd import cap_of
from harness.cli.results import console

if TYPE_CHECKING:
    from harness.config.target import TargetSpec

_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


@click.command("probe")
@click.argument("url")
@click.option("--api-key-env", help="Environment variable that holds the API key.")
@click.option("--api-key-file", help="File with the key alone, which nobody else may read.")
@click.option("--model", help="Model that is asked  [default: the one that /models lists, if it is alone]")
@click.option("--ca-file", type=click.Path(exists=True), help="Certificates to trust besides the system's.")
@click.option("--max-usd", metavar="USD", help="Ask nothing where it might cost more.")
@click.option("--out", type=click.Path(path_type=Path), help="Preset file to write.")
@_json
def probe_command(
    url: str, model: str | None, max_usd: str | None, out: Path | None, as_json: bool, **key: Any
) -> None:
    """Ask the API at URL what it does: dialects, streaming, usage, limits, headers, round trip; prints a preset for `preset: FILE`.

    At most three replies of 16 tokens each cost something; all else is asked by requests that no model takes. Where the API has a list
    price what it may cost is reserved in the key's ledger, which `harness spend` shows and runs under a cap of the key or the day count.
    """
    from harness.measure.inquiry import Inquiry
    from harness.price.provider import provider_at

    spec = _target(url, model, key)
    cap = cap_of(max_usd)
    with Inquiry(spec, lambda line: click.echo(line, err=True), cap) as inquiry:
        found = inquiry.ask(inquiry.open(model))
    provider = provider_at(found.url)
    preset = dump_yaml(found.preset(spec, provider), sort_keys=False, width=118, allow_unicode=True)
    if out is not None:
        out.write_text(redaction.known(preset), encoding="utf-8")
    if as_json:
        shown = {"findings": asdict(found), "table": dict(found.rows()), "preset": found.preset(spec, provider)}
        click.echo(json.dumps(redaction.data(shown), indent=2))
        return
    _print(found.rows())
    click.echo(f"\nwritten to {out}" if out else f"\n{preset}", nl=out is not None)


def _target(url: str, model: str | None, key: dict[str, Any]) -> TargetSpec:
    from pydantic import ValidationError

    from harness.config.target import TargetSpec

    redaction.learn_data({"url": url, **key}, os.environ)
    try:
        return TargetSpec.model_validate({"name": "probe", "kind": "hosted", "url": url, "model": model or "?"} | key)
    except ValidationError as error:
        from harness.base.bounds import config_error

        raise config_error("harness probe", error, TargetSpec) from None


def _print(rows: Any) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for what, value in rows:
        table.add_row(what, redaction.text(value))
    console().print(table)


@click.group()
def targets() -> None:
    """Presets of hosted APIs: `preset: NAME` in a target takes the values of one."""


@targets.command("list")
@_json
def targets_list(as_json: bool) -> None:
    """Names, dialects, keys and dates of the presets."""
    from harness.config.preset import load_preset, presets

    found = [load_preset(name) for name in presets()]
    if as_json:
        click.echo(json.dumps([one.model_dump(mode="json", exclude_none=True) for one in found], indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("preset", "API", "dialects", "key in", "as of", "known from"):
        table.add_column(heading, overflow="fold")
    for one in found:
        table.add_row(
            one.preset, one.title, ", ".join(one.permits.apis), one.target.api_key_env or "-", one.as_of, one.read
        )
    console().print(table)


@targets.command("show")
@click.argument("name")
@_json
def targets_show(name: str, as_json: bool) -> None:
    """A preset as its file has it: values, what the API permits, where it says usage and limits, sources."""
    from harness.config.preset import load_preset

    preset = load_preset(name)
    data = preset.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    data["target"] = preset.target.model_dump(mode="json", exclude_defaults=True)  # nulls in `request` mean something
    text = json.dumps(data, indent=2) if as_json else dump_yaml(data, sort_keys=False, width=118, allow_unicode=True)
    click.echo(text, nl=as_json)
