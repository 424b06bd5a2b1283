"""What is sent, and when: drawn from a seed, hashed, and complete before the first byte goes out.

plan, notes = drawing.draw("chat", Load(concurrency=8), requests=100, duration_s=None, seed=1, warmup_requests=4, context_limit_tokens=None)
for prompt in prompts.prompts(plan.requests, vocabulary, "completions"): ...
"""
