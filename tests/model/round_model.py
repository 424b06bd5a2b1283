"""A model of round numbers, of which memory and arithmetic can be worked out by hand."""

from __future__ import annotations

from harness.config.model.shape import ModelShape

PLAIN = ModelShape(  # 2 KV heads of 5, 2 bytes: 40 bytes of a token in a layer
    name="plain", layers=3, full_layers=3, window_layers=0, window=None, chunked=False, state_layers=0, state_bytes=0,
    state_blocks=2, kv_heads=2, head_dim=5, latent_dim=None, qk_dim=5, v_dim=5, decode_qk_dim=5, decode_v_dim=5,
    attention_heads=4, max_tokens=200, dtype="bfloat16", weight_dtype="bfloat16", weight_bytes=6000.0,
    embedding_parameters=100, attention_parameters=1000, mlp_parameters=1800, other_parameters=100, active_parameters=2950,
)  # fmt: skip
