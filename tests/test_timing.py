"""The tests themselves: which of them wait, and that none of them knows how long a machine takes."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
FILES = [
    str(path.relative_to(TESTS))
    for path in sorted(TESTS.rglob("*.py"))
    if path.relative_to(TESTS).parts[0] not in ("bench", "mutants")
]
MODULES = [name for name in FILES if Path(name).name.startswith("test_")]
# what takes its time, in its own thread or process: a test that uses one of them waits
TAKES_TIME = {
    "threading",
    "multiprocessing",
    "golden_server",
    "fault_server",
    "fake_vllm",
    "fake_api",
    "local_http",
    "vendor_server",
    "offering",
    "waiting",
    "target_spawning",
    "prometheus_server",
    "s3_server",
}
FIXTURES = {"cluster", "vllm_server", "metrics_server", "with_nvml", "golden", "s3", "bucket"}
# fakes whose slowness is what is tested, and the one place that polls
MAY_SLEEP = {
    "waiting.py",
    "fakes/fake_vllm.py",
    "fakes/fake_api.py",
    "store/kill_child.py",
    "observe/test_nvml.py",
    "observe/test_sampler.py",
}


@functools.cache
def parsed(name: str) -> ast.Module:
    return ast.parse((TESTS / name).read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> set[str]:
    """The last parts of all names that a module imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.rpartition(".")[2] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
    return found


def mentions_timing(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Attribute) and part.attr == "timing" for part in ast.walk(node))


def is_marked(tree: ast.Module, function: ast.FunctionDef) -> bool:
    whole = any(
        isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") == "pytestmark"
        and mentions_timing(node.value)
        for node in tree.body
    )
    return whole or any(map(mentions_timing, function.decorator_list))


def functions_of(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def used(function: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("name", MODULES)
def test_what_takes_time_is_marked(name):
    """A test that has a server, thread or child of its own (what its module imports for them, or a fixture that is one) is marked
    `timing`; in a module where only some use them, those do."""
    tree = parsed(name)
    bound = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2] in TAKES_TIME
        for alias in node.names
    } | (imported(tree) & TAKES_TIME)
    helpers = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and used(node) & bound
    }
    for function in functions_of(tree):
        takes = used(function) & (bound | helpers) or {arg.arg for arg in function.args.args} & FIXTURES
        assert not takes or is_marked(tree, function), f"{function.name} uses {', '.join(sorted(takes))}"


def test_what_talks_to_the_real_server_is_in_live():
    """`make test` looks for tests marked `vllm` nowhere else."""
    marked = {
        name
        for name in MODULES
        for node in ast.walk(parsed(name))
        if isinstance(node, ast.Attribute) and ast.unparse(node).endswith("mark.vllm")
    }
    assert marked
    assert all(name.startswith("live/") for name in marked), marked


@pytest.mark.parametrize("name", FILES)
def test_nothing_sleeps_to_let_others_be_done(name):
    """No `sleep` outside what plays something slow: tests wait for conditions (waiting.until)."""
    calls = [
        node.lineno
        for node in ast.walk(parsed(name))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep"
        if getattr(node.func.value, "id", "") in ("time", "clock")
    ]
    assert name in MAY_SLEEP or calls == []


@pytest.mark.parametrize("name", FILES)
def test_a_skip_says_why_and_hides_no_error(name):
    """Every skip has a reason, and none is what an `except` that takes any error comes to."""
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            match node.func.attr:
                case "skip" if getattr(node.func.value, "id", "") == "pytest":
                    assert node.args, f"line {node.lineno}: no reason"
                case "skipif":
                    assert any(word.arg == "reason" for word in node.keywords), f"line {node.lineno}: no reason"
        elif isinstance(node, ast.ExceptHandler):
            kinds = ast.unparse(node.type) if node.type else "BaseException"
            skips = any(isinstance(part, ast.Attribute) and part.attr == "skip" for part in ast.walk(node))
            broad = any(kind in kinds for kind in ("Exception", "AssertionError", "OSError"))
            assert not (skips and broad), f"line {node.lineno}: any {kinds} is a skip"


def test_no_example_has_a_deadline():
    """Hypothesis holds no example against a clock, whatever the machine."""
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check
