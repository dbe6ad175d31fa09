"""The access log: what a line says, and how lines are written."""
