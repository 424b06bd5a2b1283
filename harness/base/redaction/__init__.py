"""What is a secret, and how it is kept out of files, logs and terminals: the one definition, for all that is written.

A secret is told by its NAME (`names.is_secret`: `HF_TOKEN`, `--api-key`), by its PLACE (`places`: userinfo of a URL, a query
parameter, an Authorization header, the value of a flag), and by its VALUE (`values`): what was once seen under such a name or in such
a place is known from then on and is masked wherever it appears, in whatever encoding. `learn..` makes known, `text`, `data` and
`known` mask; a text that is to be cut is masked before, for the beginning of a secret is told only at a text's end.
"""

from __future__ import annotations

from harness.base.redaction.learning import learn_data
from harness.base.redaction.masking import data, text
from harness.base.redaction.names import is_secret
from harness.base.redaction.places import url_secret
from harness.base.redaction.streams import terminal
from harness.base.redaction.values import MASK, forget, known, learn, learned, veil

__all__ = [
    "MASK",
    "data",
    "forget",
    "is_secret",
    "known",
    "learn",
    "learn_data",
    "learned",
    "terminal",
    "text",
    "url_secret",
    "veil",
]
