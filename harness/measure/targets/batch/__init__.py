"""A target of kind `offline`: vLLM's offline inference, `LLM.generate` over whole batches, in a process of its own."""
