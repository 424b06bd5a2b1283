"""A vLLM server of ours: started, waited for to its first token, read back, ended with all its processes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from harness.base import clock
from harness.base.errors import ConfigError, TargetError
from harness.base.files import cache_dir
from harness.measure.targets import at_hand, command, container, identity, interpreter
from harness.measure.targets.server import records, vllm_log
from harness.measure.targets.server.process import ServerProcess, spawn
from harness.measure.targets.server.start import Patience, Start, compare_flags
from harness.measure.targets.target import Target
from harness.measure.targets.vocabulary import read_words, vocabulary
from harness.records import Startup, TargetInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.config.target import TargetSpec

_HEALTH_TIMEOUT_S = 5.0
# Flags that the server shows again in the labels of vllm:cache_config_info, by the label's name there.
_SHOWN_AGAIN = {
    "block_size": "block_size",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "num_gpu_blocks_override": "num_gpu_blocks_override",
    "enable_prefix_caching": "enable_prefix_caching",
    "kv_cache_dtype": "cache_dtype",
}


def _is_healthy(http: httpx.Client, root: str) -> bool:
    try:
        return http.get(f"{root}/health", timeout=_HEALTH_TIMEOUT_S).status_code == 200
    except httpx.HTTPError:
        return False


def _has_token(line: str) -> bool:
    if not line.startswith("data: {"):
        return False
    chunk: dict[str, Any] = json.loads(line.removeprefix("data: "))
    if "error" in chunk:
        raise TargetError("the server's first completion failed", str(chunk["error"])[:300], "see the server's log")
    # Random weights make tokens that are no whole character yet: then the text is empty and the ids tell.
    return any(choice.get("text") or choice.get("token_ids") for choice in chunk.get("choices", []))


def _first_token(at: Start, http: httpx.Client, base: str, model: str) -> float:
    """Seconds from the spawn until the first token of a streamed completion."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 2, "ignore_eos": True, "stream": True}
    body |= {"temperature": 0, "return_token_ids": True}
    try:
        with http.stream("POST", f"{base}/completions", json=body, timeout=at.left_s()) as answer:
            if answer.status_code != 200:
                reply = answer.read().decode("utf-8", "replace")[:300]
                raise TargetError(
                    f"the first completion was answered with HTTP {answer.status_code}",
                    reply,
                    f"log: {at.server.log_path}",
                )
            for line in answer.iter_lines():
                if _has_token(line):
                    return at.elapsed_s()
    except (httpx.HTTPError, ValueError) as error:
        at.check()
        raise TargetError(
            "the first completion broke off", f"{type(error).__name__}: {error}"[:300], f"log: {at.server.log_path}"
        ) from None
    at.check()
    raise TargetError("the first completion held no token", base, f"log: {at.server.log_path}")


def _check_listener(server: ServerProcess, port: int) -> str:
    """That the port is held by a process of this very server, and not by someone who took it before."""
    hidden = server.container is not None  # its processes may be root's, or another machine's
    for pid in server.note_members(ask=True):
        try:
            held = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in held):
            return f"port {port} is held by pid {pid}"
    if hidden and server.alive:
        return f"port {port}: not known who holds it, the container's processes cannot be looked into"
    raise TargetError("another process answers on the server's port", f"port {port}", "stop it, or choose another port")


def _read_back(
    spec: TargetSpec, at: Start, http: httpx.Client, base: str, flags: Mapping[str, Any], *, ready_s: float
) -> TargetInfo:
    model = command.served_name(flags)
    checks = {"listener": _check_listener(at.server, int(base.rsplit(":", 1)[1].removesuffix("/v1")))}
    served = identity.models(http, base, model)
    if isinstance(served, int) or model not in served.names:
        names = f"HTTP {served}" if isinstance(served, int) else identity.names_shown(served.names)
        raise TargetError(
            "the server does not list its model", f"{model}; /v1/models: {names}", f"log: {at.server.log_path}"
        )
    first_token_s = _first_token(at, http, base, model)
    at.follow()
    version, version_seen = identity.version(http, base)
    metrics = identity.metrics(http, base)
    checks |= {
        "model": "listed by /v1/models",
        "model_root": served.root or "not told",
        "version": version_seen,
        "metrics": metrics.note,
    }
    shown = {flag: metrics.cache_config[label] for flag, label in _SHOWN_AGAIN.items() if label in metrics.cache_config}
    checks |= compare_flags(flags, {"max_model_len": str(served.max_model_len), **shown}, "server")
    log = at.server.log()
    checks |= vllm_log.start_facts(log)
    return TargetInfo(
        name=spec.name,
        kind=spec.kind,
        base_url=base,
        model=model,
        max_model_len=served.max_model_len,
        server_version=version,
        flags={"model": spec.model, **flags},
        cache_config=metrics.cache_config,
        pids=at.server.note_members(),
        startup=Startup(at.process_s, vllm_log.weights_s(log), ready_s, first_token_s),
        metrics_url=metrics.url,
        checks=checks,
    )


@dataclass(frozen=True, slots=True)
class _Runner:
    """What runs `vllm serve`: the words before it, variables that it needs beside the target's, and what the manifest says of it."""

    before: list[str]
    env: Mapping[str, str]
    facts: Mapping[str, str]
    container: container.Container | None = None


def _runner(spec: TargetSpec, env: Mapping[str, str], model: command.Model, log_path: Path) -> _Runner:
    """Raises TargetError where the interpreter or the container engine is missing."""
    if spec.image is None:
        python = interpreter.find(spec.python, env)
        return _Runner(python.words(), {}, python.facts())
    box = container.named(spec.image, spec.container, log_path, env.get("PATH", os.defpath))
    hub = at_hand.hub_folders(env)
    for folder in hub.values():
        Path(folder).mkdir(parents=True, exist_ok=True)  # else the engine makes it, as root
    mounts = dict.fromkeys(hub.values(), "rw")
    if Path(model.argument).is_absolute():
        mounts |= {model.argument: "ro"}
    return _Runner(box.words({**env, **hub}, {*spec.env, *hub}, mounts), hub, {}, box)


def start(spec: TargetSpec, log_path: Path, say: Callable[[str], None]) -> Target:
    """Start `vllm serve` for `spec`, by our interpreter, another or a container, and return when it has made its first token.

    Servers whose harness is gone are ended first. The server's output goes to `log_path`; `say` takes a line at every
    new phase and every 5 s. Raises ConfigError for words in the spec that cannot be used and TargetError where vLLM is
    missing, the model is missing, the port is taken, or the server dies, hangs or is not what was asked for; nothing
    of the server is left running then.
    """
    env = command.environment(spec)
    folder = cache_dir("servers")
    records.reap_orphans(folder, say)
    model = command.resolve_model(spec, env, say)
    flags = command.flags(spec, model)
    port = command.port(spec)
    runner = _runner(spec, env, model, log_path)
    base = f"http://{command.HOST}:{port}/v1"
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        server = spawn(
            command.command(runner.before, model, port, flags),
            {**env, **runner.env},
            folder,
            log_path,
            runner.container,
        )
    except OSError as error:
        raise ConfigError("the server's log cannot be written", log_path, str(error.strerror)) from None
    say(f"{spec.name}: starting vLLM with {spec.model} on port {port}, pid {server.pid}, log {log_path}")
    patience = Patience(spec.ready_silence_s, spec.start_timeout_s)
    at = Start(spec.name, "the vLLM server", server, patience, say, clock.monotonic_ns())
    try:
        with identity.client(base) as http:
            root = identity.root_url(base)
            ready_s = at.wait(lambda: _is_healthy(http, root))
            info = _read_back(spec, at, http, base, flags, ready_s=ready_s)
        endpoint = replace(identity.endpoint(spec, base, None, vllm=True), model=info.model)
        words = vocabulary(endpoint, read_words())
    except BaseException as error:
        server.close()
        if isinstance(error, httpx.HTTPError):
            raise TargetError(
                "the server broke off", f"{type(error).__name__}: {error}"[:300], f"log: {log_path}"
            ) from None
        raise
    facts = runner.container.facts() if runner.container else runner.facts
    info = replace(info, checks={**info.checks, **facts, "vocabulary": words.source})
    startup = info.startup
    assert startup
    say(f"{spec.name}: ready in {startup.ready_s:.1f} s, first token after {startup.first_token_s:.1f} s")
    return Target(info, endpoint, words, log_path, server)
