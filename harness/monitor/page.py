"""A server's metrics page -> what it has counted, by (model, tenant).

prometheus_client parses the head of a line (name and labels) that was not seen before; what it stands for is remembered, so that a page
which has the same lines with other values costs a look-up a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from harness.base import redaction
from harness.base.clock import NS
from harness.monitor.engines import LATER, MEANS, EngineSeries, engine_of, engine_series
from harness.records import COUNTERS, HISTOGRAMS, OTHER

Key = tuple[str, str]  # model, tenant
Buckets = tuple[tuple[float, ...], tuple[float, ...]]  # upper bounds, counts

PAGE_COUNTERS = tuple(name for name in COUNTERS if name != "energy_j")
PAGE_GAUGES = ("running", "waiting", "kv_cache_use")
MOST_HEADS = 200_000  # remembered; a page whose labels never come again would fill the memory
_START = "process_start_time_seconds"
_WHOLE: Key = (OTHER, OTHER)


class PageError(Exception):
    """A page that cannot be read, with the reason in a few words; never leaves this wing."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a line's value goes: to the sum (mean, least) of its like. `rank`: of its name, newest first; `le`: of a bucket."""

    key: Key
    meaning: str
    rank: int
    le: float | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Of a page with these slots: slot of each counter and gauge by key, those of the buckets of its histograms, by bound, and that of when
    its process began."""

    numbers: Mapping[Key, tuple[int | None, ...]]
    buckets: Mapping[Key, tuple[tuple[tuple[float, ...], tuple[int, ...]], ...]]
    missing: tuple[str, ...]
    started: int | None


class Page:
    """What one page says. `started_utc_ns`: when its process began, where it tells; `missing`: names that it lacks."""

    __slots__ = ("_layout", "_values", "missing", "started_utc_ns")

    def __init__(self, values: Mapping[int, float], layout: _Layout) -> None:
        self._values, self._layout = values, layout
        self.started_utc_ns = None if layout.started is None else round(values[layout.started] * NS)
        self.missing = layout.missing

    @property
    def keys(self) -> Sequence[Key]:
        return tuple(self._layout.numbers)

    def numbers(self, key: Key) -> tuple[float | None, ...]:
        """PAGE_COUNTERS and PAGE_GAUGES of a key; None for what its page does not have."""
        values = self._values
        return tuple([None if at is None else values[at] for at in self._layout.numbers[key]])

    def histograms(self, key: Key) -> tuple[Buckets, ...]:
        """Of each of HISTOGRAMS."""
        values = self._values
        return tuple((le, tuple([values[at] for at in slots])) for le, slots in self._layout.buckets[key])

    def whole(self, keys: Sequence[Key]) -> tuple[tuple[float | None, ...], tuple[Buckets, ...]]:
        """Sums over keys: numbers (the use of the KV cache is no sum: None) and histograms of one set of bounds."""
        rows = [self.numbers(key) for key in keys]
        names = (*PAGE_COUNTERS, *PAGE_GAUGES)
        sums = [
            None if name in MEANS or all(v is None for v in column) else sum(v for v in column if v is not None)
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        ]
        found = []
        for at in range(len(HISTOGRAMS)):
            some = [h for key in keys if (h := self.histograms(key)[at])[0]]
            same = len({le for le, _ in some}) == 1
            counts = tuple(map(sum, zip(*(c for _, c in some), strict=True))) if same else ()
            found.append((some[0][0], counts) if same else ((), ()))
        return tuple(sums), tuple(found)


class PageReader:
    """Reads the pages of one pool's servers, which have the same lines but for their values."""

    def __init__(self, engine: str, tenant_label: str | None = None, unnamed: str = "") -> None:
        """`unnamed`: the model of an engine whose page names none."""
        self._engine: EngineSeries = engine_series(engine)
        self._tenant_label, self._unnamed = tenant_label, unnamed
        self._known = self._engine.names
        self._created = {name.removesuffix("_total") + "_created" for name in self._known if name.endswith("_total")}
        self._clear()

    def _clear(self) -> None:
        self._heads: dict[str, tuple[int, ...]] = {}
        self._slots: list[_Slot] = []
        self._at: dict[_Slot, int] = {}
        self._layouts: dict[tuple[int, ...], _Layout] = {}
        self._laid = 0  # slots in all of them

    def read(self, text: str) -> Page:
        """Raises PageError: it is no metrics page, or has none of the engine's series."""
        if len(self._heads) > MOST_HEADS:
            self._clear()
        heads, values, counts = self._heads, dict[int, float](), dict[int, int]()
        for line in text.split("\n"):
            head, _, number = line.rpartition(" ")  # what it is of, but where a stamp or nothing comes behind the value
            slots = heads.get(head)
            if slots is None:
                if not line or line[0] == "#":
                    continue
                end = line.rfind("}") + 1 or line.find(" ")
                slots, number = heads.get(line[:end]), line[end:]
                slots = self._learn(line[:end], line) if slots is None else slots
            if slots and (value := _value(number, line)) == value:
                self._put(slots, value, values, counts)
        return self._page(text, self._means(values, counts))

    def of_samples(self, samples: Iterable[tuple[str, Mapping[str, str], float]]) -> Page | None:
        """The same of series with their labels, as a Prometheus server has them; None where none of them is the engine's."""
        values, counts = dict[int, float](), dict[int, int]()
        for name, labels, value in samples:
            head = f"{name}{sorted(labels.items())}"
            slots = self._heads.get(head)
            if slots is None:
                slots = self._remember(head, self._slots_of(name, labels))
            if value == value:  # noqa: PLR0124 - not NaN
                self._put(slots, value, values, counts)
        try:
            return self._page("", self._means(values, counts))
        except PageError:
            return None

    def _put(self, slots: Sequence[int], value: float, values: dict[int, float], counts: dict[int, int]) -> None:
        for at in slots:
            if at in values:
                counts[at] = counts.get(at, 1) + 1
                values[at] = self._joined(at, values[at], value)
            else:
                values[at] = value

    def _means(self, values: dict[int, float], counts: Mapping[int, int]) -> dict[int, float]:
        for at, count in counts.items():
            if self._slots[at].meaning in MEANS:
                values[at] /= count
        return values

    def _joined(self, at: int, one: float, other: float) -> float:
        return min(one, other) if self._slots[at].meaning == "created" else one + other

    def _page(self, text: str, values: dict[int, float]) -> Page:
        signature = tuple(values)
        layout = self._layouts.get(signature)
        if layout is None:
            layout = self._layout_of(signature)
            if not layout.numbers:
                raise PageError(self._why_nothing(text))
            self._laid += len(signature)
            if self._laid > MOST_HEADS:
                self._layouts.clear()
                self._laid = len(signature)
            self._layouts[signature] = layout
        return Page(values, layout)

    def _learn(self, head: str, line: str) -> tuple[int, ...]:
        """What a line stands for, by its head; raises PageError where it is no line of a metrics page."""
        try:
            (family,) = text_string_to_metric_families(line + "\n")
            (sample,) = family.samples
        except (ValueError, KeyError, IndexError):
            raise PageError(_why_no_metrics(line)) from None
        return self._remember(head, self._slots_of(sample.name, sample.labels))

    def _remember(self, head: str, slots: Sequence[_Slot]) -> tuple[int, ...]:
        found = []
        for slot in slots:
            if slot not in self._at:
                self._at[slot] = len(self._slots)
                self._slots.append(slot)
            found.append(self._at[slot])
        self._heads[head] = tuple(found)
        return self._heads[head]

    def _slots_of(self, name: str, labels: Mapping[str, str]) -> list[_Slot]:
        if name == _START:
            return [_Slot(("", ""), "start", 0)]
        if name in self._created:
            return [_Slot(("", ""), "created", 0)]
        if name not in self._known:
            return []
        model = redaction.text(labels.get(self._engine.model_label, "")) or self._unnamed
        tenant = redaction.text(labels.get(self._tenant_label, "")) if self._tenant_label else ""
        le = float(labels["le"]) if "le" in labels else None
        return [
            _Slot((model, tenant), meaning, rank, le)
            for meaning, names in self._engine.series.items()
            for rank, one in enumerate(names)
            if one.holds(name, labels)
        ]

    def _layout_of(self, signature: tuple[int, ...]) -> _Layout:
        started = {self._slots[at].meaning: at for at in signature if self._slots[at].meaning in ("start", "created")}
        slots = [(at, self._slots[at]) for at in signature if at not in started.values()]
        rank: dict[str, int] = {}
        for _, slot in slots:
            rank[slot.meaning] = min(rank.get(slot.meaning, slot.rank), slot.rank)
        slots = [(at, slot) for at, slot in slots if slot.rank == rank[slot.meaning]]
        where = {(slot.key, slot.meaning): at for at, slot in slots if slot.le is None}
        keys = list(dict.fromkeys(slot.key for _, slot in slots))
        numbers = {key: tuple(where.get((key, name)) for name in (*PAGE_COUNTERS, *PAGE_GAUGES)) for key in keys}
        bounds: dict[tuple[Key, str], list[tuple[float, int]]] = {}
        for at, slot in slots:
            if slot.le is not None:
                bounds.setdefault((slot.key, slot.meaning), []).append((slot.le, at))
        buckets = {
            key: tuple(
                (tuple(le for le, _ in some), tuple(at for _, at in some))
                for some in (sorted(bounds.get((key, name), [])) for name in HISTOGRAMS)
            )
            for key in keys
        }
        missing = tuple(
            names[0].name for meaning, names in self._engine.series.items() if meaning not in (*rank, *LATER)
        )
        return _Layout(numbers, buckets, missing, started.get("start", started.get("created")))

    def _why_nothing(self, text: str) -> str:
        names = frozenset(
            line.partition("{")[0].partition(" ")[0] for line in text.split("\n") if line[:1] not in ("", "#")
        )
        if not names:
            return "the page is empty"
        other = engine_of(names)
        wanted = ", ".join(names_[0].name for names_ in list(self._engine.series.values())[:3])
        if other is not None:
            return f"no series of {self._engine.engine} ({wanted} ..), but those of {other}: set engine: {other}"
        some = ", ".join(sorted(names)[:3])
        return f"no series of {self._engine.engine} ({wanted} ..) among its {len(names)} names ({some} ..)"


def _value(number: str, line: str) -> float:
    try:
        return float(number)
    except ValueError:
        try:
            return float(number.split(None, 1)[0])  # a stamp behind it
        except (ValueError, IndexError):
            raise PageError(_why_no_metrics(line)) from None


def _why_no_metrics(line: str) -> str:
    shown = redaction.text(line.strip())[:60]
    if shown.lower().startswith("<"):
        return f"HTML instead of metrics ({shown!r}): is it the URL of the metrics page, http://HOST:PORT/metrics?"
    return f"a line that is not of a metrics page: {shown!r}"
