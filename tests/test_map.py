"""The map of the tree is true: what it names is there, every room is on it, and no function is longer than a screen."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[1] / "harness"
MAP = (HARNESS / "README.md").read_text(encoding="utf-8")
PATHS = sorted(set(re.findall(r"`((?:\.\./)?[\w/]+(?:\.(?:py|c|yaml|csv|toml|md)|/))`", MAP)))
IN_ONE_HOP = {  # what a newcomer asks -> the file that answers it
    "where a closed loop's window begins": "judge/window.py",
    "a new API dialect": "measure/drive/dialect/__init__.py",
    "a rule of validity": "judge/validity/verdict.py",
    "what is a secret": "base/redaction/names.py",
    "a trace format": "measure/plan/traces/formats.py",
    "which boards are the target's": "measure/observe/boards/choice.py",
    "what a token costs here": "price/unit_cost.py",
    "the hot path": "measure/drive/reader.c",
    "how a campaign is resumed": "measure/campaign/stock.py",
    "a price of a machine": "price/machine_price.py",
}


def test_every_path_on_the_map_exists():
    """A file that moved is moved on the map."""
    assert len(PATHS) > 50
    assert [path for path in PATHS if not (HARNESS / path).exists() and not (HARNESS.parent / path).exists()] == []


def test_every_room_is_on_the_map():
    """A new folder of the harness has a line."""
    rooms = {path.parent.name for path in HARNESS.glob("*/*.py")} - {"_data"}
    assert {room for room in rooms if f"`{room}/" not in MAP} == set()


def test_ten_questions_are_answered_in_one_hop():
    """The line that has the question has the file."""
    for question, file in IN_ONE_HOP.items():
        (line,) = [line for line in MAP.splitlines() if question in line and line.startswith("|")]
        assert f"`{file}`" in line, question


ONLY_IN = {  # package -> the only places of the harness that may import it
    "pynvml": "measure/observe/boards/nvml.py",
    "pyarrow": "store/",
    "duckdb": "store/",
    "fsspec": "store/",
    "time": "base/clock.py",
    # the second asks for a free port, the third for the time, the fourth for the target's address
    "socket": "measure/drive/wire.py measure/targets/command.py measure/nodes/echo.py measure/nodes/ray_nodes.py",
    "ssl": "measure/ monitor/",
    "asyncio": "measure/drive/sdk.py measure/drive/sdk_call.py monitor/",
    "openai": "measure/drive/sdk_call.py",
    "anthropic": "measure/drive/sdk_call.py",
    "httpx": "measure/ monitor/",
    "subprocess": "measure/ monitor/capacity.py",
    "matplotlib": "report/figures.py",
    "genai_prices": "price/",
    "yaml": "base/documents.py",
    "psutil": "measure/",
}


@cache
def _imports(path: Path) -> set[str]:
    """First words of what a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_library_stays_in_its_room(package):
    """Sockets, clocks, NVML, Parquet and their like are imported in one place each, by new modules too."""
    users = [str(path.relative_to(HARNESS)) for path in HARNESS.rglob("*.py") if package in _imports(path)]
    assert users
    assert [user for user in users if not user.startswith(tuple(ONLY_IN[package].split()))] == []


def test_no_function_is_longer_than_70_lines():
    """From `def` to its last line."""
    long = [
        f"{path.relative_to(HARNESS)}: {node.name}"
        for path in HARNESS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 70
    ]
    assert long == []
