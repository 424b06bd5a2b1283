"""YAML and JSON of people and of other programs, by one set of rules: never larger or deeper than makes sense, no key twice, numbers finite;
and how values become JSON, and cells of a CSV.

YAML is that of version 1.2 (core schema), with `1_000` and the merge key `<<` besides: `1:30`, `yes` and dates are texts, `010` is ten,
`1e6` is a number.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.base.errors import ConfigError

MOST_BYTES = 1 << 19  # of a YAML file; the largest that comes with the harness has 5 KB
MOST_VALUES = 50_000  # of a YAML file, those of an alias counted wherever it stands
MOST_DEPTH = 64
MOST_DIGITS = 40  # of a whole number

_TAG = "tag:yaml.org,2002:"
_WORDS = {  # kind -> the plain words that are of it, the first that fits; any other word is text
    "null": re.compile(r"(?:~|null|Null|NULL)?"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "merge": re.compile("<<"),
    "int": re.compile(r"[-+]?[0-9](?:_?[0-9])*|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9](?:_?[0-9])*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # in names, paths and on a terminal


def _kind(word: str) -> str:
    return _TAG + next((kind for kind, words in _WORDS.items() if words.fullmatch(word)), "str")


def whole(text: str) -> int:
    """Raises ValueError for more than MOST_DIGITS digits: reading and printing such a number takes for ever."""
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text):,} digits")
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def finite(text: str) -> float:
    """Raises ValueError for a number that is not finite, or that a float takes for 0."""
    number = float(text) if text.lower().lstrip("+-") not in (".inf", ".nan") else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text[:MOST_DIGITS]} is not a finite number")
    if not number and re.match(r"[^eE]*[1-9]", text):
        raise ValueError(f"{text[:MOST_DIGITS]} is too small to be told from 0")
    return number


# ---------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """PyYAML reads version 1.1; what differs, and what is bounded, is said here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.values = 0
        self.sizes: dict[int, int] = {}  # id of a finished node -> values in it

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        return _kind(value) if kind is yaml.ScalarNode and implicit[0] else str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias, mark, before = self.check_event(yaml.AliasEvent), self.peek_event().start_mark, self.values  # type: ignore[no-untyped-call]
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise _problem(f"nested deeper than {MOST_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if is_alias and id(node) not in self.sizes:
            raise _problem("a value that holds itself", mark)
        self.values += self.sizes[id(node)] if is_alias else 1
        if self.values > MOST_VALUES:
            raise _problem(f"more than {MOST_VALUES:,} values, those of an alias counted wherever it stands", mark)
        if not is_alias:
            self.sizes[id(node)] = self.values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key is a word or a number", key.start_mark)
            if (key.tag, key.value) in keys:
                raise _problem(f"the key {key.value[:80]!r} stands twice", key.start_mark)
            keys.add((key.tag, key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what either version would take for more than text."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        tag = str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        return _kind(value) if tag == f"{_TAG}str" and kind is yaml.ScalarNode and implicit[0] else tag


def _scalar(loader: _Loader, node: Any) -> Any:
    """A null, truth value or number, by its plain word or by an explicit tag."""
    text, kind = str(loader.construct_scalar(node)), node.tag.removeprefix(_TAG)
    if not _WORDS[kind].fullmatch(text):
        raise _problem(f"{text[:80]!r} is no {kind}", node.start_mark)
    try:
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return whole(text)
            case _:
                return finite(text)
    except ValueError as error:
        raise _problem(str(error), node.start_mark) from None


def _text(loader: _Loader, node: Any) -> str:
    text = str(loader.construct_scalar(node))
    if unusable := _UNUSABLE.search(text):
        raise _problem(f"a text with the control character {unusable[0]!r}", node.start_mark)
    return text


_Loader.yaml_constructors = {
    **{f"{_TAG}{kind}": _scalar for kind in ("null", "bool", "int", "float")},
    f"{_TAG}str": _text,
    **{f"{_TAG}{kind}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{kind}"] for kind in ("seq", "map")},
    None: yaml.SafeLoader.yaml_constructors[None],
}


def _problem(what: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)


def parse_yaml(text: str, source: str) -> Any:
    """The one document of a YAML text. Raises ConfigError with line and column of what is wrong."""
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        why = " ".join(str(getattr(error, "problem", None) or error).split())
        why = re.sub(r"\b(alias|anchor|tag) .*", r"\1", why)  # the word may be a key that begins with * or & or !
        raise ConfigError("config file is not valid YAML", at, why) from None
    finally:
        if loader is not None:
            loader.dispose()


def exists(path: Path | str) -> bool:
    """Whether there is such a file or directory; no, where the word is too long, or no path at all."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for those


def load_yaml(path: Path) -> Any:
    """Read a YAML file. Raises ConfigError: not there, not text, too large, or line and column where it is wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data[:MOST_BYTES].decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("no such config file", path, "configs/experiments/ has examples") from None
    except (OSError, ValueError) as error:
        raise ConfigError("config file cannot be read", path, str(error)) from None
    if len(data) > MOST_BYTES:
        raise ConfigError(
            "config file is too large", path, f"at most {MOST_BYTES:,} bytes; a trace goes in as a workload"
        )
    return parse_yaml(text, str(path))


def dump_yaml(data: Any, **how: Any) -> str:
    """YAML that `parse_yaml` reads as the same values; `how` as in yaml.dump."""
    return str(yaml.dump(data, Dumper=_Dumper, **how))


# ---------------------------------------------------------------- JSON


def plain(value: Any, leaf: Callable[[Any], Any] = lambda value: value, without: str = "") -> Any:
    """Records, mappings and sequences as JSON values, paths as texts; anything else as `leaf` makes it. `without`: a field of records
    that is left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), leaf, without) for f in fields(value) if f.name != without}
    if isinstance(value, Mapping):
        return {str(key): plain(inner, leaf, without) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner, leaf, without) for inner in value]
    return str(value) if isinstance(value, Path | str) else leaf(value)


def parse_json(text: str | bytes, number: Callable[[str], Any] = finite) -> Any:
    """One JSON value, its numbers with a point or an exponent read by `number`. Raises ValueError for all that can be wrong with it."""
    try:
        value = json.loads(
            text, parse_int=whole, parse_float=number, parse_constant=finite, object_pairs_hook=_without_doubles
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    level, depth = [value], 0
    while level := [inner for one in level if isinstance(one, (dict, list)) for inner in _inner(one)]:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError(f"nested deeper than {MOST_DEPTH} levels")
    return value


def _inner(value: dict[str, Any] | list[Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:80]!r} stands twice")
    return mapping


# ---------------------------------------------------------------- CSV that a spreadsheet may open

_FORMULA = re.compile(r"[\t\r]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")  # full-width forms count too
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula with an apostrophe before it; numbers, written out too, as they are."""
    formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if formula else value
