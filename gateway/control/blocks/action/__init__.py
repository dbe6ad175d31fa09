"""Blocks of a route that say what answers: an upstream and the path that it gets, a redirect, a fixed response."""
