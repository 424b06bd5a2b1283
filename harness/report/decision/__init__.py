"""The page of a decision between hosted and own machines, and its plots."""
