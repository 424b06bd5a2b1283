"""What people read: text for terminals, Markdown, JUnit, HTML that loads nothing, plain values for --json. Sees values alone."""
