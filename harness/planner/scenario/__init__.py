"""A workload priced every way: what a file may say, what it is worked out to, the options, the answer."""
