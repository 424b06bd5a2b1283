"""Values that stand where another one should, and places in nested data."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]

WRONG = [  # of another type, or beyond what any of ours may be
    None, True, False, 0, -1, 1.5, -1e300, 1e300, 1e-300, 10**18, 10**30, "", "x", "-1", "1e999", "NaN", "\u202e\u0000", "é" * 300,
    "2026-13-45", "../../x", "=1+1", "\\1\\g<0>", [], {}, [[]], [None], {"": None}, ["x"], [-1], {"a": {"b": [1]}},
]  # fmt: skip


def places(data: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in nested data, from the outside in; not the data itself."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def at(data: Any, place: Place) -> Any:
    for key in place:
        data = data[key]
    return data


def put(data: Any, place: Place, value: Any) -> Any:
    """A copy with another value there."""
    made = copy.deepcopy(data)
    at(made, place[:-1])[place[-1]] = value
    return made


def drop(data: Any, place: Place) -> Any:
    made = copy.deepcopy(data)
    del at(made, place[:-1])[place[-1]]
    return made


def damaged(raw: bytes, draw: random.Random) -> tuple[str, bytes]:
    """(what was done, bytes) of a file: cut, zeroed, bits flipped, doubled, something else in the middle."""
    end, where = len(raw), draw.randrange(max(1, len(raw)))
    match draw.choice(
        ["cut", "cut", "zeroed", "flipped", "flipped", "flipped", "emptied", "noise", "doubled", "other"]
    ):
        case "cut":
            return f"cut at {where} of {end}", raw[:where]
        case "zeroed":
            length = draw.choice([1, 8, 64, end])
            return f"{length} bytes zeroed at {where}", raw[:where] + bytes(min(length, end - where)) + raw[
                where + length :
            ]
        case "flipped":
            made = bytearray(raw or b"\0")
            for _ in range(draw.choice([1, 1, 1, 3, 20])):
                made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
            return "bits flipped", bytes(made)
        case "emptied":
            return "emptied", b""
        case "noise":
            return f"noise at {where}", raw[:where] + draw.randbytes(16) + raw[where + 16 :]
        case "doubled":
            return "doubled", raw + raw
        case _:
            return "another file", draw.choice(
                [b"PAR1", b"{}", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b"9" * 5_000, b'{"a":NaN}']
            )
