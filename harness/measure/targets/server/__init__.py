"""A server of ours on this machine: its processes under a guard, their record, their log, and how a start is followed."""
