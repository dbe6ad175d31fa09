"""Blocks of an upstream."""
