"""Drives real vLLM servers and hosted LLM APIs, and turns what it measures into dollars per token."""

__version__ = "0.1.0"
