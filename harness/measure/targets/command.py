"""From a target's spec to the command and environment of its vLLM server. Starts nothing."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.base import redaction
from harness.base.errors import ConfigError, TargetError
from harness.measure.targets import at_hand, embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.config.target import Flag, TargetSpec

HOST = "127.0.0.1"
_ENV = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_EMBEDDED = "embedded:"
# Flags that would change where the server is, how it is reached, or that would carry a secret into the manifest.
_NOT_YOURS = {
    "model": "set the target's model",
    "port": "set the target's port",
    "host": f"a server that the harness starts listens on {HOST}; start it yourself and use kind adopt",
    "api_key": "a server that the harness starts takes no key; start it yourself and use kind adopt",
    "uds": "start it yourself and use kind adopt",
    "root_path": "start it yourself and use kind adopt",
    "headless": "start it yourself and use kind adopt",
    "config": "write its flags into the target's flags",
}
_JSON_LISTS = {"allowed_origins", "allowed_methods", "allowed_headers"}
_COMMA_LISTS = {"disable_access_log_for_endpoints"}
_REPEATED = {"middleware"}
# Outgoing connections take their ports from 32768 up (net.ipv4.ip_local_port_range): one of those could take the port
# in the seconds until vLLM binds it.
_PORTS = range(20000, 32768)
_PORT_TRIES = 200


@dataclass(frozen=True, slots=True)
class Model:
    """What `spec.model` means: what vLLM is told, the short name it is served under, flags that it needs."""

    argument: str
    short_name: str
    flags: Mapping[str, str]


def environment(spec: TargetSpec) -> dict[str, str]:
    """The server's environment: ours without the keys of other APIs, quiet offline defaults where nothing is set, the spec's."""
    if "VLLM_API_KEY" in spec.env or spec.api_key_env:
        raise ConfigError(
            f"target {spec.name!r}: a key for a server of ours", "VLLM_API_KEY or api_key_env", _NOT_YOURS["api_key"]
        )
    held = redaction.holders()
    env = _ENV | {name: value for name, value in os.environ.items() if name not in held} | spec.env
    env.pop("VLLM_API_KEY", None)  # it would lock the server against us
    if spec.image is None:
        env["PATH"] = path_with(spec.python or sys.executable, env)
    return env


def path_with(python: str, env: Mapping[str, str]) -> str:
    """PATH with the folder of `python` first: FlashInfer looks for `ninja` on PATH, and a virtual environment that nobody
    activated is not on it."""
    folder = str(Path(python).expanduser().parent)
    return os.pathsep.join(
        (folder, *(p for p in env.get("PATH", os.defpath).split(os.pathsep) if p not in ("", folder)))
    )


def _hub_copy(name: str, env: Mapping[str, str]) -> Path:
    """Where the local hub cache keeps a model, whether or not it is there."""
    return at_hand.hub_folder(env) / f"models--{name.replace('/', '--')}"


def resolve_model(spec: TargetSpec, env: Mapping[str, str], say: Callable[[str], None]) -> Model:
    """Find or prepare the model. Raises ConfigError or TargetError before anything is started."""
    name = spec.model
    if name.startswith(_EMBEDDED):
        short = name.removeprefix(_EMBEDDED)
        needs = embedded.flags(short)
        if "dtype" in needs and "dtype" not in map(_normal, spec.flags):
            say(f"{name}: {needs['dtype']}, for this CPU has no AVX-512, without which bfloat16 is slow")
        return Model(str(embedded.ensure(short, say)), short, needs)
    path = Path(name).expanduser()
    if path.exists():
        if path.is_dir() and not any((path / f).is_file() for f in ("config.json", "params.json")):
            raise TargetError(
                "the model directory has no config.json", path, "give the directory that holds the model's files"
            )
        return Model(str(path.resolve()), path.resolve().name, {})
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise TargetError(
            "no such model path",
            name,
            f"give a path, a hub name, or {' or '.join(_EMBEDDED + n for n in embedded.NAMES)}",
        )
    if env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on") and not _hub_copy(name, env).exists():
        raise TargetError(
            "the model is neither a path nor in the local hub cache",
            name,
            f"looked at {_hub_copy(name, env)}; to let vLLM download it set env HF_HUB_OFFLINE: '0' for this target",
        )
    return Model(name, name.rpartition("/")[2], {})


def _normal(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def flags(spec: TargetSpec, model: Model) -> dict[str, Flag]:
    """The spec's flags by normal name, over those that the model and the harness need. Raises ConfigError."""
    own: dict[str, Flag] = {}
    for raw, value in spec.flags.items():
        # JSON members (--compilation-config.level) keep the spelling after the dot.
        head, dot, rest = raw.partition(".")
        name = _normal(head) + dot + rest
        if name in own:
            raise ConfigError(
                f"target {spec.name!r}: a flag is given twice", raw, "write it once, with dashes or underscores"
            )
        known = "ssl" if name.startswith("ssl_") else name
        if known == "ssl" or known in _NOT_YOURS:
            raise ConfigError(
                f"target {spec.name!r}: flag cannot be set", raw, _NOT_YOURS.get(known, _NOT_YOURS["uds"])
            )
        if known.removeprefix("no_") == "enable_prompt_tokens_details" and known != "enable_prompt_tokens_details":
            name, value = "enable_prompt_tokens_details", not value  # noqa: PLW2901 - the same switch, spelled off
        own[name] = value
    defaults: dict[str, Flag] = {"served_model_name": model.short_name}
    return defaults | {"enable_prompt_tokens_details": True} | dict(model.flags) | own


def command(before: Sequence[str], model: Model, port: int, flags: Mapping[str, Flag]) -> list[str]:
    """The server's command line: `before` (an interpreter's or a container's words), then `serve MODEL` and the flags."""
    return [*before, "serve", model.argument, "--host", HOST, "--port", str(port), *flag_words(flags)]


def flag_words(flags: Mapping[str, Flag]) -> list[str]:
    """True is a bare flag, False `--no-flag`, a list the words that vLLM's parser takes it in, all else `--flag=value`."""
    words = []
    for name, value in flags.items():
        head, dot, rest = name.partition(".")
        flag = f"--{head.replace('_', '-')}{dot}{rest}"
        match value:
            case True:
                words.append(flag)
            case False:
                words.append(f"--no-{flag[2:]}")
            case list():
                words += _list_words(name, flag, value)
            case _:
                words.append(f"{flag}={value}")
    return words


def _list_words(name: str, flag: str, values: Sequence[str | int | float]) -> list[str]:
    """`--flag a b` (nargs +) but for the few that vLLM reads otherwise (launchers/cli_args.py at 0.32)."""
    if "." in name or name in _JSON_LISTS:
        return [f"{flag}={json.dumps(values)}"]
    if name in _COMMA_LISTS:
        return [f"{flag}={','.join(map(str, values))}"]
    if name in _REPEATED:
        return [f"{flag}={value}" for value in values]
    return [flag, *map(str, values)]


def served_name(flags: Mapping[str, Flag]) -> str:
    """The name that requests give: the first, where the model is served under several."""
    names = flags["served_model_name"]
    return str(names[0]) if isinstance(names, list) else str(names).split()[0]


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no hindrance
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def port(spec: TargetSpec) -> int:
    """The spec's port, or a free one. Raises TargetError if it is in use."""
    if spec.port is not None:
        if not _can_bind(spec.port):
            raise TargetError(
                "the port is in use",
                f"{HOST}:{spec.port}",
                "stop what listens there, choose another port, or leave it out",
            )
        return spec.port
    return free_port()


def free_port() -> int:
    """One for a server that takes some seconds to start. Raises TargetError."""
    for candidate in random.sample(_PORTS, _PORT_TRIES):
        if _can_bind(candidate):
            return candidate
    raise TargetError("no free port found", f"{_PORTS.start}-{_PORTS.stop - 1}", "set the target's port")
