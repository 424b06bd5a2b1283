"""Actions and images of configs/deploy are named by what they hold, or a line says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "configs" / "deploy"
_NAMED = re.compile(r"^\s*(?:-\s*)?(?:uses:|image:|FROM)\s+(\S+)")
_DIGEST = re.compile(r"@(?:[0-9a-f]{40}|sha256:[0-9a-f]{64})$")


def movable(text: str) -> list[str]:
    """Actions and images that a tag alone names, without `no digest: why` in their line or the one above."""
    lines = ["", *text.splitlines()]
    return [
        found[1]
        for above, line in zip(lines, lines[1:], strict=False)
        if (found := _NAMED.match(line))
        and not _DIGEST.search(found[1])
        and not re.search(r"no digest: \w", above + line)
    ]


def test_no_action_or_image_by_a_tag_alone():
    """Of all files, two actions and three images at the least: a commit, a digest, or the reason."""
    texts = {path: path.read_text() for path in DEPLOY.rglob("*") if path.is_file()}
    assert sum(len(re.findall(_NAMED.pattern, text, re.MULTILINE)) for text in texts.values()) >= 5
    assert {str(path): movable(text) for path, text in texts.items() if movable(text)} == {}


@pytest.mark.parametrize(
    "line",
    [
        "      - uses: actions/checkout@v4",
        "  image: vllm/vllm-openai:v1",
        "FROM python:3.12",
        "  uses: a/b@" + "a" * 39,
    ],
)
def test_a_tag_alone_would_be_seen(line):
    """The check is one that can fail."""
    assert len(movable(line)) == 1
    assert movable(f"# no digest: built here\n{line}") == []
