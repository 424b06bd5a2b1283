"""Models that are on this machine already: whole copies in the hub cache, and folders under /models. Nothing is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.documents import parse_json

_FOLDER = Path("/models")  # where containers and nodes mount theirs
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """`name`: what a target's `model` says, a hub name or a path. `folder`: where its files are."""

    name: str
    folder: Path


def hub_folder(env: Mapping[str, str]) -> Path:
    """The hub cache that vLLM reads, as huggingface_hub finds it."""
    home = Path(env.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(env.get("HF_HUB_CACHE") or home / "hub")


def hub_folders(env: Mapping[str, str]) -> dict[str, str]:
    """HF_HOME, and HF_HUB_CACHE where it lies elsewhere: mounted into a container where they are, and set for its server."""
    home = Path(env.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser().resolve()
    folders = {"HF_HOME": str(home)}
    if hub := env.get("HF_HUB_CACHE"):
        folders["HF_HUB_CACHE"] = str(Path(hub).expanduser().resolve())
    return folders


def models(env: Mapping[str, str], folder: Path = _FOLDER) -> tuple[LocalModel, ...]:
    """Every whole language model at hand, those of the hub cache first, by name."""
    models = [*_hub_copies(hub_folder(env)), *(LocalModel(str(path), path) for path in _listed(folder, "*"))]
    return tuple(model for model in models if is_whole(model.folder))


def locate(name: str, env: Mapping[str, str]) -> Path | None:
    """The folder of a model by path or hub name, None where it is not at hand."""
    if os.path.isdir(path := os.path.expanduser(name)):  # noqa: PTH111, PTH112 - Path raises for a word too long, or ~nobody
        return Path(path)
    return next((model.folder for model in _hub_copies(hub_folder(env)) if model.name == name), None)


def is_whole(folder: Path) -> bool:
    """A model that writes text, with its tokenizer, and every weight file that its index names."""
    config = _mapping(folder / "config.json")
    writes = any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or ())
    if not writes or not any((folder / name).is_file() for name in _TOKENIZERS):
        return False
    shards = _mapping(folder / "model.safetensors.index.json").get("weight_map")
    if isinstance(shards, Mapping) and shards:
        return all(os.path.isfile(folder / str(name)) for name in shards.values())  # noqa: PTH113 - as above
    return any(path.is_file() for path in _listed(folder, "*.safetensors"))


def _hub_copies(hub: Path) -> Iterator[LocalModel]:
    """The revision that `main` means of each model in the cache."""
    for path in _listed(hub, "models--*"):
        try:
            revision = (path / "refs" / "main").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        yield LocalModel(path.name.removeprefix("models--").replace("--", "/"), path / "snapshots" / revision)


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _mapping(path: Path) -> dict[str, Any]:
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
