"""The headers that say who asks: of the load's requests, and of those beside it."""

from __future__ import annotations

from collections.abc import Mapping

from harness.base.errors import ConfigError

_OF_API = {  # that the API itself demands
    "messages": {"anthropic-version": "2023-06-01"},  # https://platform.claude.com/docs/en/api/versioning
}


def key_header(auth: str, key: str | None) -> dict[str, str]:
    """The key in the header that `auth` names: bearer, or one of that name. Raises ConfigError without quoting the key."""
    if key is None:
        return {}
    if not key.isascii() or not key.isprintable():
        raise ConfigError("the API key cannot be sent in a header", "(not shown)", "it may hold printable ASCII only")
    return {"authorization": f"Bearer {key}"} if auth == "bearer" else {auth: key}


def more_headers(api: str, headers: Mapping[str, str]) -> dict[str, str]:
    """What the API demands and what the target adds; the target's word counts where both name one."""
    own = {name.lower() for name in headers}
    return {name: value for name, value in _OF_API.get(api, {}).items() if name not in own} | dict(headers)
