"""A reverse-proxy gateway: cross-cutting HTTP policy at one point, in front of services that stay framework-free."""

__version__ = "0.1.0"
