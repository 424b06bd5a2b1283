"""Presets of hosted APIs: what a provider's documentation, or an inquiry of ours, says of it, as the keys of a target.

`targets: [{name: x, preset: openai, model: gpt-5-mini}]` is that target with the preset's values wherever it has none of its own. A preset
is taken once, when an experiment is read: from then on the target says `{name, as_of}` of it, so that a stored run means what was sent,
whatever the file says later.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from harness.base import bounds, redaction
from harness.base.bounds import Spec, config_error
from harness.base.documents import load_yaml
from harness.base.errors import ConfigError, nearest
from harness.base.files import data_dir

Api = Literal["completions", "chat", "responses", "messages"]
Auth = Literal["bearer", "x-api-key", "api-key"]
OutputLimit = Literal["max_tokens", "max_completion_tokens", "max_output_tokens"]
KEY_SOURCES = ("api_key_env", "api_key_file", "api_key_command")
_MAPPINGS = ("headers", "request")  # merged name by name; of any other key the target's own value counts alone
_Page = Annotated[str, bounds.worded(r"https?://\S+", "the address of a page")]
_Field = Annotated[str, bounds.worded(r"[\w.]{1,100}", "a field's path: usage.prompt_tokens_details.cached_tokens")]


class PresetUse(Spec):
    """Which preset a target took its values from; what is written down of it."""

    name: bounds.Word
    as_of: bounds.Day


class PresetTarget(Spec):
    """The keys of a target that a preset may give."""

    url: str | None = None
    api: Api | None = None
    api_key_env: str | None = None
    auth: Auth | None = None
    headers: dict[str, str] = Field(default_factory=dict, max_length=32)
    request: dict[str, Any] = Field(default_factory=dict, max_length=32)
    output_limit: OutputLimit | None = None


class Permits(Spec):
    """What the API takes. None: the sources do not say."""

    apis: list[Api] = Field(min_length=1, description="dialects that it serves")
    ignore_eos: bool | None = Field(default=None, description="false: lengths can only be asked for")
    temperature: bool | None = Field(default=None, description="false: at least some models refuse temperature: 0")
    stream_options: bool | None = Field(default=None, description="include_usage is taken")
    service_tiers: list[bounds.Word] = Field(default_factory=list, description="values of service_tier")
    reasoning: _Field | None = Field(default=None, description="the body's field that bounds reasoning")


class UsageFields(Spec):
    """Where a reply says what it is billed by. None: it does not say, or the sources do not."""

    comes: Literal["asked", "always", "never"] = Field(
        description="asked: with stream_options alone; always: without it too"
    )
    cached: _Field | None = None
    cache_write_5m: _Field | None = None
    cache_write_1h: _Field | None = None
    reasoning: _Field | None = None


class PresetSpec(Spec):
    """A provider's API. `as_of`: when its sources were read; `read`: pages, their words as they stood then; memory, what is known of
    them without having read them again; inquiry, replies of the API itself."""

    preset: bounds.Slug
    title: bounds.Word
    as_of: bounds.Day
    read: Literal["pages", "memory", "inquiry"]
    sources: list[_Page] = Field(min_length=1)
    target: PresetTarget
    url_form: str | None = Field(default=None, description="how the URL looks that only the user knows")
    price_provider: bounds.Word | None = Field(
        default=None, description="id of genai-prices, for a target without price"
    )
    price_without: bounds.Word | None = Field(
        default=None, description="how models' names begin that the price book has without it"
    )
    permits: Permits
    usage: UsageFields
    limit_headers: Literal["x-ratelimit", "anthropic-ratelimit"] | None = None
    notes: list[bounds.Word] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_a_url(self) -> PresetSpec:
        if (self.target.url is None) == (self.url_form is None):
            raise ValueError("give either target.url, or url_form where each user has a URL of their own")
        if self.target.api is not None and self.target.api not in self.permits.apis:
            raise ValueError(f"target.api is {self.target.api}, and permits.apis does not have it")
        return self


def presets() -> list[str]:
    """Names of the presets that come with the harness."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _folder() -> Path:
    return data_dir("configs") / "targets"


def load_preset(word: str) -> PresetSpec:
    """The preset of that name, or of that file where the word ends in .yaml. Raises ConfigError."""
    if word.endswith((".yaml", ".yml")):
        return _read(Path(word).expanduser())
    names = presets()
    if word not in names:
        raise ConfigError(
            "no such preset of a target",
            word[:100],
            nearest(word.lower(), names, f"one of {', '.join(names)}, or a file ending in .yaml"),
        )
    return _shipped(word)


@lru_cache(64)
def _shipped(name: str) -> PresetSpec:
    return _read(_folder() / f"{name}.yaml")


def _read(path: Path) -> PresetSpec:
    data = load_yaml(path)
    redaction.learn_data(data)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a preset", type(data).__name__, "`harness targets show openai` shows one")
    try:
        return PresetSpec.model_validate(data)
    except ValidationError as error:
        raise config_error(str(path), error, PresetSpec, "`harness targets show openai` shows one") from None


def with_preset(target: Mapping[str, Any]) -> dict[str, Any]:
    """A target's plain data with what its preset says where it says nothing itself. A target whose preset was taken before is as it
    is. Raises ConfigError: no such preset, one that cannot be read, a URL that only the user knows."""
    word = target.get("preset")
    if not isinstance(word, str):
        return dict(target)
    preset = load_preset(word)
    given = {key: value for key, value in preset.target.model_dump(exclude_defaults=True).items() if value is not None}
    if any(target.get(key) is not None for key in KEY_SOURCES):
        given.pop("api_key_env", None)
    if not target.get("url") and "url" not in given:
        raise ConfigError(f"preset {preset.preset} needs your own url", word, f"add url: {preset.url_form}")
    merged = {"kind": "hosted"} | given | {key: value for key, value in target.items() if value is not None}
    for key in _MAPPINGS:
        own = target.get(key)
        if key in given and isinstance(own, Mapping):
            merged[key] = given[key] | dict(own)
    model = target.get("model")
    if preset.price_provider and isinstance(model, str) and model.strip() and target.get("price") is None:
        listed = model.removeprefix(preset.price_without or "") or model
        merged["price"] = {"provider": preset.price_provider, "model": listed}
    return merged | {"preset": {"name": preset.preset, "as_of": preset.as_of}}
