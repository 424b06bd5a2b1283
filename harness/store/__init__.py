"""Runs on disk: `schema` derives the tables, `writer` writes a run as it goes, `reader` reads it back."""
