"""A hundred keys of every kind, the ways a server may spell one, and a search that finds them whatever was done to them."""

from __future__ import annotations

import base64
import html
import json
import random
import re
import shlex
import string
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pyarrow.parquet as pq

_KINDS = (
    string.ascii_letters + string.digits,
    "sk-" + string.ascii_letters + "_-",
    string.ascii_letters + string.digits + "+/=",
    string.ascii_letters + "\"'\\&<>%+/=?#@:;$`!{}[]()|~^*,",
    string.digits + "abcdef",
)


def make_keys(count: int = 100, seed: int = 20261125) -> list[str]:
    """Printable ASCII without spaces, 8 to 200 characters, no two alike in their first letters."""
    rng = random.Random(seed)
    keys = []
    for i in range(count):
        length = (8, 12, 20, 24, 40, 51, 64, 100, 164, 200)[i // 5 % 10]
        keys.append("".join(rng.choice(_KINDS[i % 5]) for _ in range(length - 1)) + "Z")
    return keys


def _broken(key: str) -> str:
    return f"{key[: len(key) // 2]}\n {key[len(key) // 2 :]}"


SPELLINGS = (
    str,
    lambda key: quote(key, safe=""),
    lambda key: "".join(f"%{byte:02x}" for byte in key.encode()),
    lambda key: json.dumps(key)[1:-1],
    html.escape,
    lambda key: base64.b64encode(key.encode()).decode(),
    lambda key: base64.urlsafe_b64encode(b"user:" + key.encode()).decode(),
    _broken,
    lambda key: quote(_broken(key), safe=""),
    shlex.quote,
)


def _views(text: str) -> list[str]:
    """The text as it stands and without each encoding, all without spaces and line ends."""
    texts = [text, unquote(text), html.unescape(text), html.unescape(unquote(text))]
    texts += [re.sub(r"\\(?:[nrt]|(.))", r"\1", one) for one in texts]
    texts += [re.sub(r"\\u00([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), text), text.replace("'\"'\"'", "'")]
    return ["".join(one.split()) for one in dict.fromkeys(texts)]


def _forms(key: str) -> list[str]:
    """The key, and what base64 makes of it at each of the three places where it may begin."""
    coded = []
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + key.encode()).decode()
        inner = whole[-(-8 * before // 6) : 8 * (before + len(key)) // 6]
        coded += [inner, inner.translate(str.maketrans("+/", "-_"))]
    return [key, *coded]


@lru_cache(maxsize=4)
def _index(keys: tuple[str, ...]) -> tuple[np.ndarray, dict[bytes, list[tuple[bytes, str]]]]:
    """Which three bytes a form of a key begins with (a table over all), and those forms by them."""
    table, forms = np.zeros(1 << 24, bool), defaultdict[bytes, list[tuple[bytes, str]]](list)
    for key in keys:
        for form in map(str.encode, dict.fromkeys(_forms(key))):
            forms[form[:3]].append((form, key))
            table[int.from_bytes(form[:3])] = True
    return table, forms


def found_in(text: str, keys: Sequence[str]) -> list[str]:
    """The keys that stand in the text in any spelling."""
    table, forms = _index(tuple(keys))
    data = "\n\n\n".join(_views(text)).encode("utf-8", "replace")
    at = np.frombuffer(data, np.uint8).astype(np.uint32)
    begins = np.flatnonzero(table[(at[:-2] << 16) | (at[1:-1] << 8) | at[2:]])
    found = {key for i in begins.tolist() for form, key in forms[data[i : i + 3]] if data.startswith(form, i)}
    return [key for key in keys if key in found]


def texts_of(path: Path) -> list[str]:
    """All that a file says: its bytes, what is packed in them, and the columns of a Parquet file."""
    data = path.read_bytes()
    texts = [data.decode("latin-1")]
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        texts += ["\n".join(map(str, column.to_pylist())) for column in table.columns]
        texts.append(str(table.schema.metadata))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            texts += [packed.read(name).decode("utf-8", "replace") for name in packed.namelist()]
    return texts
