"""Blocks of the whole process."""
