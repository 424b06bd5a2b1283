"""The pages of the live monitor: a MonitorView, or the state of one, on a terminal, as HTML, Markdown, CSV and FOCUS rows."""
