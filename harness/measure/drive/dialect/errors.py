"""What an API says went wrong, in one line that is fit for a record."""

from __future__ import annotations

import json
from typing import Any

from harness.base import redaction

MAX_ERROR_CHARS = 200


def clean_error(text: object, api_key: str | None) -> str:
    """One short line without secrets and control characters, fit for a record."""
    line = " ".join(str(text).split())
    if api_key:
        line = line.replace(api_key, redaction.MASK)  # of any length
    line = redaction.text(line)[:MAX_ERROR_CHARS]
    return "".join(c if c.isprintable() else "?" for c in line)


def error_message(body: bytes) -> str | None:
    """`error.message` (or what servers put in its place) of a JSON body, after the error's code; None if there is none."""
    try:
        value = json.loads(body)
        return message_of(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError):  # no JSON, or nested too deep to be read or written
        return None


def message_of(value: dict[str, Any]) -> str | None:
    """The same of a value: `{"error": {..}}`, or the error itself. Anthropic's (`"type": "error"`) have a type where others have a code."""
    error: Any = value.get("error", value)
    code = None
    if isinstance(error, dict):
        code = error.get("type" if value.get("type") == "error" and error is not value else "code")
        error = error.get("message") or error.get("detail")
    if error is None:
        return None
    return (
        f"{code}: {error}" if isinstance(code, str) and code else str(error)
    )  # the code first: messages are long, and cut
