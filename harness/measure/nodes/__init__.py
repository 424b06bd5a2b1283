"""Load from many nodes: each node's part, the parent's part, and the one time line that their stamps are put on."""
