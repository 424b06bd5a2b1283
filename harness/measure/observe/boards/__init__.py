"""The boards of this machine (NVML), or of another by an exporter's page (DCGM): which are the target's, and what they tell."""
