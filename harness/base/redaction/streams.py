"""Standard output and error of a command, with every known secret masked on the way out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from harness.base.redaction.values import known


class _Masked:
    """A text stream in all but what it writes."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        self._inner.write(known(text) if isinstance(text, str) else text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def terminal() -> None:
    """From here on what this process prints is masked, tracebacks and warnings too."""
    if sys.stdout is not None and not isinstance(sys.stdout, _Masked):
        sys.stdout = cast("TextIO", _Masked(sys.stdout))
    if sys.stderr is not None and not isinstance(sys.stderr, _Masked):
        sys.stderr = cast("TextIO", _Masked(sys.stderr))
