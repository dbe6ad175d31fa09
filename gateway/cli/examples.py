"""What people type: an example of every command, for `--help`, the page of commands and the manual page."""

from typing import Final

EXAMPLES: Final = {
    "run": ("gateway run gateway.yaml", "gateway run - < gateway.yaml"),
    "demo": ("gateway demo", "gateway demo --load http://127.0.0.1:8080"),
    "check": ("gateway check gateway.yaml", "gateway check --format github gateway.yaml"),
    "diff": ("gateway diff old.yaml new.yaml", "gateway diff --running new.yaml"),
    "explain": ("gateway explain gateway.yaml GET https://api.example.com/users/1 -H 'X-Tenant: a'",),
    "routes": ("gateway routes gateway.yaml",),
    "schema": ("gateway schema > gateway.schema.json",),
    "init": ("gateway init", "gateway init gateway.yaml"),
    "healthcheck": ("gateway healthcheck",),
    "reload": ("gateway reload", "gateway reload --dry-run new.yaml"),
    "upstreams": ("gateway upstreams", "gateway upstreams users"),
    "limits": (
        "gateway limits top",
        "gateway limits top login",
        "gateway limits key login 198.51.100.7",
        "gateway limits reset login 198.51.100.7",
    ),
    "breaker": ("gateway breaker", "gateway breaker open users --reason 'maintenance' --for 30m"),
    "logs": ("gateway logs --failed access.log", "gateway logs -f --status 5xx access.log"),
    "completion": ('eval "$(gateway completion bash)"',),
    "version": ("gateway version",),
}
