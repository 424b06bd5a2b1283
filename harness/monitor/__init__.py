"""The live monitor of servers that serve somebody else: read, never asked; readings to dollars, and where people look."""
