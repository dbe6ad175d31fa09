"""Benchmarks: our gateway beside nginx, HAProxy, Caddy and Envoy on one core each. See README.md."""
