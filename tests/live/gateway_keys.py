"""Keys of the gateway without a database, read by the LiteLLM proxy in its own environment (`custom_auth`): a key a line of
GATEWAY_KEYS, a JSON object of key -> {rpm_limit, tpm_limit, max_parallel_requests}."""

import json
import os

from litellm.proxy._types import ProxyException, UserAPIKeyAuth

KEYS = json.loads(os.environ["GATEWAY_KEYS"])


async def user_api_key_auth(request, api_key):
    """The key's limits, or 401 as a provider's own gate answers."""
    if api_key not in KEYS:
        raise ProxyException(message="Incorrect API key provided", type="invalid_request_error", param=None, code=401)
    return UserAPIKeyAuth(api_key=api_key, **KEYS[api_key])
