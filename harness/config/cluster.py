"""How a config names a Ray cluster."""

from __future__ import annotations

import re

_CLUSTER = re.compile(r"ray|(ray://)?[^\s/:@]+:\d{1,5}")
DESCRIPTION = "ray: the cluster of this machine (RAY_ADDRESS); HOST:PORT of its head, or ray://HOST:PORT"


def named(on: str, *others: str) -> str:
    """`on`, if it names a cluster or is one of the `others`. Raises ValueError."""
    if on not in others and not _CLUSTER.fullmatch(on):
        raise ValueError(f"{on!r:.80} is no cluster: {', '.join((*others, 'ray', 'HOST:PORT'))} or ray://HOST:PORT")
    return on
