"""Blocks of a route that say who is served, when, and how often it is tried."""
