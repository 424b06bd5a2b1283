"""config.json fields of published models (Hugging Face hub; trimmed to what shapes and memory are made of), by short names."""

from __future__ import annotations

QWEN3_NEXT = {  # Qwen/Qwen3-Next-80B-A3B-Instruct
    "model_type": "qwen3_next", "full_attention_interval": 4, "head_dim": 256, "hidden_size": 2048, "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [], "moe_intermediate_size": 512,
    "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 48, "num_key_value_heads": 2,
    "shared_expert_intermediate_size": 512, "tie_word_embeddings": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3_8_27B = {  # Qwen/Qwen3.8-27B, text part
    "model_type": "qwen3_5_text", "full_attention_interval": 4, "head_dim": 256, "hidden_size": 5120, "intermediate_size": 17408,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 48,
    "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32", "max_position_embeddings": 262144, "num_attention_heads": 24,
    "num_hidden_layers": 64, "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 248320,
}  # fmt: skip
GEMMA_2_27B = {  # google/gemma-2-27b-it: it says nothing of which layers have the window
    "model_type": "gemma2", "head_dim": 128, "hidden_size": 4608, "intermediate_size": 36864, "max_position_embeddings": 8192,
    "num_attention_heads": 32, "num_hidden_layers": 46, "num_key_value_heads": 16, "sliding_window": 4096, "vocab_size": 256000,
}  # fmt: skip
GEMMA_3_12B = {  # google/gemma-3-12b-it
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "head_dim": 256, "hidden_size": 3840, "intermediate_size": 15360, "max_position_embeddings": 131072,
        "num_attention_heads": 16, "num_hidden_layers": 48, "num_key_value_heads": 8, "sliding_window": 1024,
        "sliding_window_pattern": 6, "vocab_size": 262208,
    },
}  # fmt: skip
JAMBA = {  # ai21labs/Jamba-v0.1
    "model_type": "jamba", "attn_layer_offset": 4, "attn_layer_period": 8, "expert_layer_offset": 1, "expert_layer_period": 2,
    "hidden_size": 4096, "intermediate_size": 14336, "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_state": 16,
    "mamba_dt_rank": 256, "mamba_expand": 2, "mamba_proj_bias": False, "max_position_embeddings": 262144, "num_attention_heads": 32,
    "num_experts": 16, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    "vocab_size": 65536,
}  # fmt: skip
NEMOTRON_NANO_9B = {  # nvidia/NVIDIA-Nemotron-Nano-9B-v2
    "model_type": "nemotron_h", "conv_kernel": 4, "head_dim": 128, "hidden_size": 4480,
    "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-", "intermediate_size": 15680,
    "mamba_head_dim": 80, "mamba_num_heads": 128, "max_position_embeddings": 131072, "n_groups": 8, "num_attention_heads": 40,
    "num_hidden_layers": 56, "num_key_value_heads": 8, "ssm_state_size": 128, "tie_word_embeddings": False, "vocab_size": 131072,
}  # fmt: skip
NEMOTRON_H_8B = {  # nvidia/Nemotron-H-8B-Base-8K
    "model_type": "nemotron_h", "attention_head_dim": 128, "conv_kernel": 4, "hidden_size": 4096,
    "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", "intermediate_size": 21504,
    "mamba_head_dim": 64, "mamba_num_heads": 128, "max_position_embeddings": 8192, "n_groups": 8, "num_attention_heads": 32,
    "num_hidden_layers": 52, "num_key_value_heads": 8, "ssm_state_size": 128, "tie_word_embeddings": False, "vocab_size": 131072,
}  # fmt: skip
_LLAMA_4 = {
    "model_type": "llama4_text", "attention_chunk_size": 8192, "head_dim": 128, "hidden_size": 5120, "intermediate_size": 8192,
    "intermediate_size_mlp": 16384, "num_attention_heads": 40, "num_experts_per_tok": 1, "num_hidden_layers": 48,
    "num_key_value_heads": 8, "vocab_size": 202048, "attention_bias": False, "no_rope_layer_interval": 4,
}  # fmt: skip
LLAMA_4_SCOUT = {  # meta-llama/Llama-4-Scout-17B-16E-Instruct
    "model_type": "llama4",
    "tie_word_embeddings": False,
    "text_config": {
        **_LLAMA_4,
        "num_local_experts": 16,
        "interleave_moe_layer_step": 1,
        "max_position_embeddings": 10485760,
    },
}
LLAMA_4_MAVERICK = {  # meta-llama/Llama-4-Maverick-17B-128E-Instruct
    "model_type": "llama4",
    "tie_word_embeddings": False,
    "text_config": {
        **_LLAMA_4,
        "num_local_experts": 128,
        "interleave_moe_layer_step": 2,
        "max_position_embeddings": 1048576,
    },
}
DEEPSEEK_V2_LITE = {  # deepseek-ai/DeepSeek-V2-Lite
    "model_type": "deepseek_v2", "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512,
    "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_routed_experts": 64, "n_shared_experts": 2, "num_attention_heads": 16,
    "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": None, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 102400, "tie_word_embeddings": False, "max_position_embeddings": 163840,
}  # fmt: skip
QWEN3_30B_A3B = {  # Qwen/Qwen3-30B-A3B
    "model_type": "qwen3_moe", "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
    "mlp_only_layers": [], "moe_intermediate_size": 768, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 151936,
}  # fmt: skip
QWEN2_5_72B = {  # Qwen/Qwen2.5-72B-Instruct
    "model_type": "qwen2", "hidden_size": 8192, "intermediate_size": 29568, "max_position_embeddings": 32768,
    "num_attention_heads": 64, "num_hidden_layers": 80, "num_key_value_heads": 8, "sliding_window": 131072,
    "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip
PHI_4 = {  # microsoft/phi-4
    "model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17920, "max_position_embeddings": 16384,
    "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 10, "tie_word_embeddings": False,
    "vocab_size": 100352,
}  # fmt: skip
GPT_OSS_120B = {  # openai/gpt-oss-120b
    "model_type": "gpt_oss", "attention_bias": True, "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880,
    "max_position_embeddings": 131072, "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 36,
    "num_key_value_heads": 8, "num_local_experts": 128, "sliding_window": 128, "tie_word_embeddings": False, "vocab_size": 201088,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
    },
}  # fmt: skip
