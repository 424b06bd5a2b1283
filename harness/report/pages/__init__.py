"""What the pages share: the templates' environment with its filters, figures as they stand, and files that are whole or not there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.base import files, redaction
from harness.base.errors import StoreError
from harness.report import formats


@cache
def environment() -> Environment:
    """Templates of this package; every word from outside is escaped, a name that is not given is an error."""
    templates = Environment(
        loader=PackageLoader("harness.report.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "clean": formats.clean,
        "usd": formats.usd,
        "percent": formats.percent,
        "duration": formats.duration,
        "number": formats.number,
        "load_words": formats.load_words,
    }
    return templates


def svg(text: str) -> Markup:
    """A figure as it stands: figures.py escapes every word in it."""
    return Markup(text)  # noqa: S704


def write_whole(path: Path, text: str) -> None:
    """Write a text file without known secrets; directories are made. Through a link, /dev/stdout too. Raises StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (
            path.exists() and not path.is_file()
        ):  # a pipe, a terminal: there is nothing to put in its place
            path.write_text(redaction.known(text), encoding="utf-8")
        else:
            files.write_whole(path, redaction.known(text))
    except OSError as error:
        raise StoreError("the report cannot be written", path, error.strerror or str(error)) from None
