"""What every config, scenario, preset and table holds to: its keys, and the bounds of a number, a name or a date, with the reason;
and how it is told what is wrong with it."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.base import redaction
from harness.base.errors import ConfigError, nearest

MOST_REQUESTS = 10_000_000  # of a plan, which is drawn and held in memory
MOST_TOKENS = 10_000_000  # of a prompt or a reply
MOST_CELLS = 10_000  # of an experiment, repetitions counted
MOST_IN_FLIGHT = 65_536  # connections of one machine
YEAR_S = 366 * 86_400
_MAY_HOLD_A_KEY = (
    ["url"],
    ["api_key_env"],
    ["api_key_file"],
    ["telemetry_url"],
    ["metrics_urls"],
)  # though their names are no secret's


class Spec(BaseModel):
    """What a file of the user's may say: no other keys, numbers that are finite; never changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def config_error(source: str, error: ValidationError, spec: type[BaseModel], see: str = "") -> ConfigError:
    """The first thing wrong with the data of `spec`; of an unknown key the nearest ones, or all that may stand there. `see`: where
    examples are. Of a mapping, and of what may be a credential, only the place is told."""
    problems = error.errors()  # an unknown key explains a missing one: report it first
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    unknown, value = first["type"] == "extra_forbidden", first.get("input")
    place, keys = _place(spec, first["loc"], unknown=unknown)
    where = ".".join(map(str, place)) or "(top level)"
    if unknown:
        advice = nearest(str(place[-1]), keys, f"keys allowed here: {', '.join(keys)}")
        return ConfigError(f"{source}: unknown key", where, advice)
    if first["type"] == "missing":
        return ConfigError(f"{source}: missing key", where, "; ".join(filter(None, ("add it", see))))
    untold = isinstance(value, dict | list) or place[-1:] in _MAY_HOLD_A_KEY or any(map(redaction.is_secret, place))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    why = first["msg"].removeprefix("Value error, ").replace("\n", " ") + more
    shown = where if untold else redaction.text(f"{where} = {value!r}")[:300]
    return ConfigError(f"{source}: bad value", shown, why)


def _place(spec: type[BaseModel], loc: tuple[int | str, ...], *, unknown: bool) -> tuple[list[int | str], list[str]]:
    """(pydantic's location without the name of which of several kinds a value was taken for, the keys that may stand where its last
    key does). `unknown`: that last key is none of them."""
    place, keys = list[int | str](), list(spec.model_fields)
    here: type[BaseModel] | None = spec
    for at, part in enumerate(loc):
        if isinstance(part, str) and here is not None:
            if part not in here.model_fields and not (unknown and at == len(loc) - 1):
                continue
            keys = list(here.model_fields)
            inner = here.model_fields[part].annotation if part in keys else None
            kinds = (inner, *get_args(inner))
            here = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        place.append(part)
    return place, keys


def within(least: float, most: float, why: str) -> AfterValidator:
    """Raises ValueError with the value, both ends and `why`: what it is, or the reason."""

    def check(value: Any) -> Any:
        if not least <= value <= most:
            raise ValueError(f"{value!r:.40} is not from {least:,.12g} to {most:,.12g}: {why}")
        return value

    return AfterValidator(check)


def worded(pattern: str, why: str) -> AfterValidator:
    """Raises ValueError with the text and `why` where the pattern does not fit all of it."""
    fits = re.compile(pattern)

    def check(text: str) -> str:
        if not fits.fullmatch(text):
            raise ValueError(f"{text!r:.60}: {why}")
        return text

    return AfterValidator(check)


def _day(text: str) -> str:
    try:
        if re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", text):
            date.fromisoformat(text + "-01-01"[len(text) - 4 :])
            return text
    except ValueError:
        pass
    raise ValueError(f"{text!r:.40} is not a date: YYYY-MM-DD, or YYYY-MM, YYYY")


Seconds = Annotated[float, Field(gt=0), within(1e-6, YEAR_S, "seconds, at most a year")]
SecondsOrNone = Annotated[float, within(0, YEAR_S, "seconds, at most a year")]
Rate = Annotated[float, within(1e-5, 1e6, "requests/s that a load generator offers, at least one a day")]
ServiceRate = Annotated[float, within(1e-6, 1e9, "requests or tokens per second of a service")]
Hertz = Annotated[float, within(1e-3, 100, "samples per second")]
Share = Annotated[float, Field(gt=0, le=1), within(1e-4, 1, "a share of the whole; 1 is all of it")]
Ratio = Annotated[float, within(1e-4, 1e4, "a ratio of two like things")]
Count = Annotated[int, within(0, 1_000_000, "how many")]
Requests = Annotated[int, within(1, MOST_REQUESTS, "requests of one plan, which is held in memory")]
Tokens = Annotated[int, within(0, MOST_TOKENS, "tokens of one request")]
Volume = Annotated[float, within(1e-3, 1e15, "requests or tokens over a time")]
Usd = Annotated[float, within(0, 1e12, "US dollars")]
UsdPerHour = Annotated[float, within(0, 1e6, "US dollars per hour")]
UsdPerMillion = Annotated[float, within(0, 1e6, "US dollars per million tokens")]
Day = Annotated[str, AfterValidator(_day)]
Word = Annotated[str, worded(r"(?s)\s*\S.{0,9999}", "a text that is not empty")]
Name = Annotated[
    str,
    worded(
        r"\w[\w .,:+=@()-]{0,99}", "names files too: a letter or digit first, then those and ' .,:+=@()-_', at most 100"
    ),
]
Slug = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), worded(r".{1,100}", "names a folder: at most 100 characters")
]
