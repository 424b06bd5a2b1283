"""The map of the tree is true: what it names is there, every room is on it, and no function is longer than a screen."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HARNESS = Path(__file__).parents[1] / "harness"
MAP = (HARNESS / "README.md").read_text(encoding="utf-8")
PATHS = sorted(set(re.findall(r"`((?:\.\./)?[\w/]+(?:\.(?:py|c|yaml|csv|toml|md)|/))`", MAP)))
IN_ONE_HOP = {  # what a newcomer asks -> the file that answers it
    "where a closed loop's window begins": "analyse/window.py",
    "a new API dialect": "drive/dialect.py",
    "a rule of validity": "analyse/validity.py",
    "what is a secret": "redaction/names.py",
    "a trace format": "plan/trace_formats.py",
    "which boards are the target's": "observe/board_choice.py",
    "what a token costs here": "cost/unit_cost.py",
    "the hot path": "drive/reader.c",
    "how a campaign is resumed": "campaign/stock.py",
    "a price of a machine": "cost/proposal.py",
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


def test_no_function_is_longer_than_70_lines():
    """From `def` to its last line."""
    long = [
        f"{path.relative_to(HARNESS)}: {node.name}"
        for path in HARNESS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 70
    ]
    assert long == []
