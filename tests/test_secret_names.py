"""Which names hide their value: one table for every page that shows flags and variables."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from harness.base.redaction import is_secret
from harness.judge.compare.comparison import compare
from harness.measure.observe.environment import public_environment
from harness.records import Load
from harness.report.run.sections import facts
from harness.store.history_columns import row_of
from tests.judge.compare_campaigns import campaign

SECRET = [
    "HF_TOKEN", "hf_token", "--hf-token", "token", "TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_2", "GITHUB_TOKEN",
    "accessToken", "authToken", "NGROK_AUTHTOKEN", "api_key", "--api-key", "api-key", "API_KEY", "OPENAI_API_KEY",
    "VLLM_API_KEY", "apiKey", "OPENAI_APIKEY", "api_keys", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY", "SECRET_KEY_BASE", "client_secret", "secret", "PRIVATE_KEY", "VLLM_SECRET_X", "password",
    "PASSWORD", "DB_PASSWORD", "db_passwd", "DB_PASS", "key_passphrase", "PASSWORD_HASH", "credentials",
    "GOOGLE_APPLICATION_CREDENTIALS", "authorization", "Authorization", "basic_auth", "HF_AUTH", "session_cookie",
]  # fmt: skip
PUBLIC = [
    "max_num_batched_tokens", "--max-num-batched-tokens", "MAX_TOKENS", "max_tokens", "min_tokens",
    "num_speculative_tokens", "context_limit_tokens", "long_prefill_token_threshold", "tokenizer", "tokenizer_mode",
    "VLLM_TOKENIZER", "skip_tokenizer_init", "token_budget", "usd_per_output_token", "seconds_per_token",
    "eos_token", "bos_token", "pad_token", "return_tokens_as_token_ids", "first_token_s", "api_key_env",
    "ssl_keyfile", "keyboard", "keys_total", "author", "authors", "bypass", "compass", "max_num_seqs",
    "VLLM_ATTENTION_BACKEND", "OMP_NUM_THREADS", "monkey", "turkey", "hockey",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET)
def test_a_credentials_name_is_secret(name):
    """Environment variables, flags and JSON keys in every spelling."""
    assert is_secret(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_count_or_setting_is_not(name):
    """Names that only hold such letters, or speak of a model's tokens."""
    assert not is_secret(name)


@pytest.mark.parametrize("name", [*SECRET, *PUBLIC])
def test_every_page_follows_the_one_rule(name):
    """compare, the report, the history's row and the manifest's variables hide exactly what the rule calls secret."""
    value = "value-512"
    hidden = is_secret(name)
    key, load = "tpot_s.p50", Load(concurrency=4)
    flags, values = {"flags": {name: value}}, {load: {key: [0.02, 0.021]}}
    base = campaign(values)
    new = campaign(values, server=flags, config={"targets": [{"name": "a", "env": {}} | flags]})
    changed = {what: there for what, _, there in compare(base, new, metrics=[key]).changes}
    assert (changed[f"flag {name}"] == value) != hidden
    (fact,) = facts([{name: value}])
    assert (value in str(fact.values)) != hidden
    row = row_of(new.runs[0].summary, datetime(2026, 11, 25, tzinfo=UTC))
    assert (value in row["flags"]) != hidden
    variable = f"VLLM_{re.sub(r'[^A-Za-z0-9]', '_', name)}"
    assert (variable in public_environment({variable: value})) != hidden
