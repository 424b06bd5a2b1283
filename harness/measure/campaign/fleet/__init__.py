"""A campaign over many machines: repetitions are handed to boxes whole, and come back as run directories."""
