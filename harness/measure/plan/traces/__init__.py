"""Traces: files of requests, whatever their format, read row by row into columns that a plan replays."""
