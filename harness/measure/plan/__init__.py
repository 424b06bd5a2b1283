"""What is sent, and when: drawn from a seed, hashed, and complete before the first byte goes out.

plan, notes = draw("chat", Load(concurrency=8), requests=100, duration_s=None, seed=1, warmup_requests=4,
                   context_limit_tokens=None)
for prompt in prompts(plan.requests, vocabulary, "completions"): ...  # from harness.measure.plan.prompts
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.measure.plan.arrivals import Burstiness, burstiness
    from harness.measure.plan.checking import Figure, check
    from harness.measure.plan.describing import describe
    from harness.measure.plan.drawing import draw
    from harness.measure.plan.fitting import Reproduction, fit
    from harness.measure.plan.prefixes import HitRatio, hit_ratio
    from harness.measure.plan.preset import presets
    from harness.measure.plan.workload import with_options

__all__ = [
    "Burstiness",
    "Figure",
    "HitRatio",
    "Reproduction",
    "burstiness",
    "check",
    "describe",
    "draw",
    "fit",
    "hit_ratio",
    "presets",
    "with_options",
]

_WHERE = {
    "Burstiness": "arrivals",
    "Figure": "checking",
    "HitRatio": "prefixes",
    "Reproduction": "fitting",
    "burstiness": "arrivals",
    "check": "checking",
    "describe": "describing",
    "draw": "drawing",
    "fit": "fitting",
    "hit_ratio": "prefixes",
    "presets": "preset",
    "with_options": "workload",
}


def __getattr__(name: str) -> Any:
    """When it is asked for: a node of many, which only makes prompts, starts a quarter of a second sooner."""
    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
