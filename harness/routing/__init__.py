"""Which of two sides serves a request: policies, what they know, and a day replayed under them. No clock, no network, no files."""
