"""`harness monitor`: what production costs now, on a screen and as metrics; a dry look at what would be watched."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.base.errors import ConfigError, TargetError
from harness.cli.monitor_report import report_command
from harness.cli.results import as_json_option, console, emit
from harness.report import formats

if TYPE_CHECKING:
    from rich.console import Console

    from harness.records import MonitorState

LISTEN = "127.0.0.1:9848"
_ONCE_S = 2.0  # between the two readings of --once
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class _Group(click.Group):
    """`harness monitor CONFIG` is `harness monitor watch CONFIG`: the word may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"-h", "--help"}:
            args = ["watch", *args]
        return super().parse_args(ctx, args)


class _Duration(click.ParamType[float]):
    """`90s`, `30m`, `2h`, `1d`, or seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        if found is None or float(found[1]) <= 0:
            self.fail(f"{value!r} is no duration: 90s, 30m, 2h", param, ctx)
        return float(found[1]) * _SECONDS[found[2] or "s"]


@click.group("monitor", cls=_Group)
def monitor_group() -> None:
    """What production servers cost now, and what they should cost. Their metrics are read; no request is ever sent.

    `harness monitor CONFIG` watches: see `harness monitor watch --help`. A config to begin with: configs/monitor/example.yaml.
    """


monitor_group.add_command(report_command)
config_argument = click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@monitor_group.command("watch")
@config_argument
@click.option(
    "--listen", default=LISTEN, show_default=True, metavar="HOST:PORT", help="Where its own metrics are; none: nowhere."
)
@click.option("--once", is_flag=True, help="Read every server twice, show what is known, end.")
@click.option("--for", "for_s", type=_Duration(), help="End after this time: 90s, 30m, 2h.")
@click.option(
    "--json", "as_json", is_flag=True, help="Each state as JSON on stdout, a line each; with --once one document."
)
def watch_command(config: Path, listen: str, once: bool, for_s: float | None, as_json: bool) -> None:
    """Watch the servers of CONFIG until Ctrl-C: dollars now, tokens a second, utilisation, promise, advice.

    On a terminal one screen; elsewhere a line each minute. Readings are stored where the config says, metrics of it all are at /metrics.
    """
    from harness.config.monitor import load_monitor
    from harness.monitor.exporter import Exporter, serving
    from harness.monitor.live import watched
    from harness.store.columns import give_memory_back, without_pandas

    without_pandas()
    give_memory_back()
    spec = load_monitor(config)
    if once:
        spec = spec.model_copy(update={"interval_s": min(spec.interval_s, _ONCE_S)})
    exporter = Exporter()
    place = nullcontext("") if once or listen == "none" else serving(exporter, *_address(listen))
    with place as url, _Face(console(), once=once, as_json=as_json, url=url) as face:

        def show(state: MonitorState) -> bool:
            exporter.show(state)
            return face.show(state)

        watched(spec, show, for_s)


class _Face:
    """Where states are shown: one screen that is painted anew on a terminal, a line each minute elsewhere, JSON where asked for."""

    def __init__(self, out: Console, *, once: bool, as_json: bool, url: str) -> None:
        self._out, self._once, self._json, self._url = out, once, as_json, url
        self._screen = (
            None if once or as_json or not out.is_terminal else Live(console=out, screen=True, auto_refresh=False)
        )
        self._minute = -1

    def __enter__(self) -> Self:
        if self._screen is not None:
            self._screen.start()
        elif self._url:
            click.echo(f"metrics at {self._url}", err=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen is not None:
            self._screen.stop()

    def show(self, state: MonitorState) -> bool:
        """Show it; true where that is enough."""
        from harness.report.monitor import terminal

        if self._once:
            if not state.servers or any(server.scrapes < 2 for server in state.servers):
                return False
            if self._json:
                emit(state)
            else:
                self._out.print(terminal.screen(state, self._out.width, max(24, len(state.servers) + 40)))
            return True
        if not any(server.scrapes for server in state.servers):
            return False
        if self._json:
            emit(state, indent=None)
        elif self._screen is not None:
            self._screen.update(terminal.screen(state, self._out.width, self._out.height), refresh=True)
        elif state.at_utc_ns // 60_000_000_000 != self._minute:
            self._minute = state.at_utc_ns // 60_000_000_000
            click.echo(terminal.line(state))
        sys.stdout.flush()
        return False


def _address(listen: str) -> tuple[str, int]:
    """Raises ConfigError for what is no HOST:PORT."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError("--listen takes HOST:PORT", listen, f"{LISTEN}, or 0.0.0.0:9848 for every network, or none")
    return host.strip("[]"), int(port)


@monitor_group.command("check")
@config_argument
@as_json_option
def check_command(config: Path, as_json: bool) -> None:
    """A dry look at CONFIG: which servers are found, which series their pages lack, which prices and capacities are used.

    Nothing is stored. Exit code 3 where a server cannot be read, or none is found.
    """
    from harness.config.monitor import load_monitor
    from harness.monitor.live import looked

    state = looked(load_monitor(config))
    if as_json:
        emit(state)
    else:
        _print_check(console(), state)
    silent = [server.server for server in state.servers if not server.up]
    if silent or not state.servers:
        what = f"{len(silent)} of {len(state.servers)} servers cannot be read" if silent else "no server is found"
        raise TargetError(
            what, ", ".join(silent[:5]) or str(config), "what each says stands above; see that the URL opens from here"
        )


def _print_check(out: Console, state: MonitorState) -> None:
    from harness.monitor.view import UNREAD

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("pool", "server", "engine", "read", "what it says"):
        table.add_column(heading, overflow="fold")
    for server in state.servers:
        table.add_row(
            Text(server.pool), Text(formats.clean(server.server, 80)), Text(server.engine), Text("yes" if server.up else "no"),
            Text(formats.clean(server.says, 300) or "every series that is read"),
        )  # fmt: skip
    out.print(table)
    for price in state.prices:
        usd = f"{formats.usd(price.usd_per_hour)}/h, {price.as_of}" if price.usd_per_hour is not None else "no price"
        out.print(Text(f"pool {price.pool}: {usd} ({formats.clean(price.price, 160)})"))
    view = state.views["1m"]
    models = [group.name for group in view.groups if group.kind == "model" and group.name != UNREAD]
    out.print(Text(f"models: {', '.join(formats.clean(name, 80) for name in models) or 'none is told yet'}"))
    for one in view.capacities:
        use = "used" if one.used else f"not used: {formats.clean(one.why, 160)}"
        out.print(
            Text(
                f"capacity of {formats.clean(one.model, 80)}: {formats.number(one.rps)} req/s, {formats.run_ids(one.run_ids)}, {use}"
            )
        )
    for warning in (*state.warnings, *view.warnings):
        out.print(Text(formats.clean(warning, 400), style="yellow"))
