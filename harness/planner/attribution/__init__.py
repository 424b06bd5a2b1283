"""The share of input and of output in a machine's cost: from the engine's steps, or from the cost of whole requests."""
