"""Blocks of a route that say what is done with its messages: fields, bodies, codings, the log."""
