"""Which names are a secret's: of flags, variables, settings, query parameters and JSON members."""

from __future__ import annotations

import re

_ANYWHERE = frozenset(
    ("secret", "secrets", "password", "passwords", "passwd", "passphrase", "credential", "credentials", "bearer")
)
_LAST = frozenset(
    ("token", "key", "keys", "auth", "authorization", "pass", "cookie", "apikey", "accesskey", "authtoken")
)
_OF_TEXT = frozenset(("per", "bos", "eos", "pad", "unk"))  # `.. per output token`, and a tokenizer's own
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def is_secret(name: object) -> bool:
    """True where the value may be a credential: a word like `secret` or `password` stands anywhere in the name, or one
    like `token` or `key` is its last word (`HF_TOKEN`, `--api-key`, `authToken`).

    Words end at anything that is no letter, and where a capital begins one. Counts of tokens (`max_num_batched_tokens`),
    times per token and the names of variables or files that hold a secret (`api_key_env`) are not secret.
    """
    words = [word.lower() for word in _WORD.findall(str(name))]
    while words and words[-1].isdigit():  # HF_TOKEN_2
        words.pop()
    if not words:
        return False
    of_text = words[-1] == "token" and not _OF_TEXT.isdisjoint(words)
    return not _ANYWHERE.isdisjoint(words) or (words[-1] in _LAST and not of_text)


def secret_flag(word: object) -> bool:
    """Whether a command's word is a flag whose value, the next word, is a secret: `--api-key`."""
    return isinstance(word, str) and word.startswith("-") and "=" not in word and is_secret(word)
