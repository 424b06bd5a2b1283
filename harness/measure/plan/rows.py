"""Columns of planned requests, their canonical bytes and their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from harness.measure.plan.prefixes import Pairs
from harness.measure.plan.streams import I64, U64, Purpose, key
from harness.records import Load, PlannedRequest

NULL = -(2**63)
_SEEDS = 2**63 - 1
_SALT_STEP = 0x5851F42D4C957F2D  # odd, and another than the step of prompt_seeds


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of planned requests; a column that is None is null in every row, NULL in an array is null in that row.
    `prefix` holds pairs (seed, tokens)."""

    seq: I64
    scheduled_ns: I64 | None
    prompt: I64
    output: I64
    prompt_seed: I64
    session: I64 | None = None
    prefix: list[Pairs] | None = None
    after: I64 | None = None
    think_ns: I64 | None = None

    def requests(self) -> tuple[PlannedRequest, ...]:
        columns = (
            self.seq.tolist(),
            self._values(self.scheduled_ns),
            self.prompt.tolist(),
            self.output.tolist(),
            self._values(self.session),
            self.prompt_seed.tolist(),
            [()] * len(self.seq) if self.prefix is None else self.prefix,
            self._values(self.after),
            self._values(self.think_ns),
        )
        return tuple(map(PlannedRequest, *columns))

    def _values(self, column: I64 | None) -> list[int | None]:
        if column is None:
            return [None] * len(self.seq)
        values: list[int | None] = column.tolist()
        return [None if value == NULL else value for value in values] if (column == NULL).any() else values

    def salted(self, salt: int) -> Rows:
        """The same rows with other words in every prompt; what prompts share, they share still. Changes this one's `prefix` too."""
        if self.prefix is not None and salt:  # in place: two lists for a million requests are hundreds of megabytes
            for i, pairs in enumerate(self.prefix):
                self.prefix[i] = tuple([n if k % 2 else (n + salt * _SALT_STEP) & _SEEDS for k, n in enumerate(pairs)])
        return replace(self, prompt_seed=_shifted(self.prompt_seed.astype(np.uint64), salt))

    def canonical(self) -> bytes:
        """Row count, then seq, scheduled_ns, prompt, output, session_id, prompt_seed of each row; 8 bytes each,
        little-endian, null as -2^63. Then, only where some row has them, `prefix` (its length and numbers) of each row, and
        after_seq and think_ns of each row."""
        null = np.full(len(self.seq), NULL)

        def column(values: I64 | None) -> I64:
            return null if values is None else values

        table = (self.seq, column(self.scheduled_ns), self.prompt, self.output, column(self.session), self.prompt_seed)
        data = len(self.seq).to_bytes(8, "little") + _bytes(table)
        if self.prefix is not None and any(self.prefix):
            lengths = np.fromiter(map(len, self.prefix), np.int64, len(self.prefix))
            flat = np.fromiter((n for pairs in self.prefix for n in pairs), np.int64, int(lengths.sum()))
            data += b"prefix" + lengths.astype("<i8").tobytes() + flat.astype("<i8").tobytes()
        if self.after is not None:
            data += b"after" + _bytes((self.after, column(self.think_ns)))
        return data


def _bytes(columns: Sequence[I64]) -> bytes:
    return np.column_stack(columns).astype("<i8").tobytes()


def digest(workload: Mapping[str, Any], seed: int, load: Load, tables: tuple[Rows, Rows]) -> str:
    """SHA-256 of what was drawn from (plain JSON values), seed, load and every row, measured and warm-up."""
    header: dict[str, Any] = {"format": 1, "workload": workload, "seed": seed, "load": asdict(load)}
    sha = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    for rows in tables:
        sha.update(rows.canonical())
    return sha.hexdigest()


def prompt_seeds(seed: int, seqs: I64, salt: int = 0) -> I64:
    """Distinct for distinct seq: a Weyl sequence with an odd step modulo 2^63."""
    words: U64 = np.uint64(key(seed, Purpose.PROMPTS)) + seqs.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return _shifted(words, salt)


def _shifted(seeds: U64, salt: int) -> I64:
    return ((seeds + np.uint64(salt * _SALT_STEP & _SEEDS)) & np.uint64(_SEEDS)).astype(np.int64)
