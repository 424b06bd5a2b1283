"""What a night of cells needs around them: their order, a file that says what was meant, locks, pauses, an end."""
