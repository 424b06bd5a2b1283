"""Which mutants a source file has: mutmut's operators over the whole file, module constants and decorated functions too.

Left out is what changes words and not numbers: strings with a space in them (messages), everything inside `raise` (what a
refusal says; that it refuses is mutated by its condition), messages as arguments or under their usual names, and upper and lower case
variants of a string; and what states a fact that holds: `assert`, and `strict` of a zip.
"""

from __future__ import annotations

import ast
import difflib
import itertools
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

OPERATORS = [(kind, operator) for kind, operator in mutation_operators if operator is not operator_string]
_SKIPPED = (cst.Annotation, cst.Decorator, cst.Raise, cst.Import, cst.ImportFrom, cst.Assert)
_WORDS = {"advice", "message", "what"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file. Lines count from 1; `scope` is the function (dotted), or "" for what runs at import."""

    path: str
    scope: str
    lines: range  # of the changed node
    scope_lines: range  # of the outermost function around it, or of the file
    _module: cst.Module
    _old: cst.CSTNode
    _new: cst.CSTNode

    @property
    def source(self) -> str:
        return self._module.deep_replace(self._old, self._new).code  # type: ignore[arg-type]

    def diff(self) -> str:
        """The changed lines, `-` before `+`, without line numbers: what may_live.toml is compared with."""
        old, new = self._module.code.splitlines(), self.source.splitlines()
        return "\n".join(line for line in list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:] if line[0] in "+-")


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """Every mutant of the file, in the order of the file; the same source gives the same list."""
    wrapper = MetadataWrapper(cst.parse_module((root / path).read_text()), unsafe_skip_copy=True)
    visitor = _Visitor(path, wrapper.module)
    wrapper.visit(visitor)
    return visitor.found


def is_a_change(mutant: Mutant) -> bool:
    """Whether it compiles and is another program (another `strict` of a zip is not)."""
    try:
        return _meaning(mutant.source) != _meaning(mutant._module.code)
    except SyntaxError:
        return False


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
    return ast.dump(tree)


def _is_prose(node: cst.CSTNode) -> bool:
    match node:
        case cst.SimpleString():
            return " " in node.value or node.value.endswith(('"""', "'''"))
        case cst.FormattedString():
            return any(isinstance(part, cst.FormattedStringText) and " " in part.value for part in node.parts)
        case cst.ConcatenatedString():
            return _is_prose(node.left) or _is_prose(node.right)
    return False


def _drops_only_prose(old: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Whether a call lost nothing but a message that was an argument."""
    if not isinstance(old, cst.Call) or not isinstance(new, cst.Call):
        return False
    gone = [argument for argument in old.args if not any(argument is kept for kept in new.args)]
    return bool(gone) and all(_is_prose(argument.value) for argument in gone)


class _Visitor(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, path: str, module: cst.Module) -> None:
        super().__init__()
        self.found: list[Mutant] = []
        self._path, self._module = path, module
        self._whole = range(1, module.code.count("\n") + 2)
        self._names: list[str] = []
        self._functions: list[range] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, _SKIPPED) or (isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString)):
            return False
        if isinstance(node, cst.Assign) and getattr(node.targets[0].target, "value", None) in _WORDS:
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._names.append(node.name.value)
        if isinstance(node, cst.FunctionDef):
            self._functions.append(self._lines(node))
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                self._add(node, operator(node))
        if isinstance(node, cst.SimpleString) and not _is_prose(node):
            self._add(node, itertools.islice(operator_string(node), 1))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef) and self._names:
            self._names.pop()
        if isinstance(original_node, cst.FunctionDef):
            self._functions.pop()

    def _add(self, node: cst.CSTNode, changed) -> None:
        if self.get_metadata(PositionProvider, node, None) is None:
            return
        scope = self._functions[0] if self._functions else self._whole
        names = ".".join(self._names) if self._functions else ""
        for new in (new for new in changed if not _drops_only_prose(node, new)):
            self.found.append(Mutant(self._path, names, self._lines(node), scope, self._module, node, new))

    def _lines(self, node: cst.CSTNode) -> range:
        at = self.get_metadata(PositionProvider, node)
        return range(at.start.line, at.end.line + 1)
