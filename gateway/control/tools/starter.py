"""The file that `gateway init` writes."""

from typing import Final

SCHEMA_LINE: Final = "# yaml-language-server: $schema=./gateway.schema.json"

STARTER: Final = f"""{SCHEMA_LINE}
# For completion in your editor: gateway schema > gateway.schema.json
# Check with `gateway check`, ask with `gateway explain FILE GET /path`, run with `gateway run FILE`.
version: 1

server:
  listen: [":8080"]
  # trusted_proxies: [10.0.0.0/8]     # load balancers in front of us: believed about client addresses

# admin: {{listen: "127.0.0.1:9900"}}   # /livez /readyz /metrics /config

defaults:                             # what every route inherits, field by field
  timeout: {{request: 15s, connect: 3s}}
  limits: {{body: 10MiB}}

upstreams:
  app:
    endpoints:
      - http://127.0.0.1:9001
      # - {{url: "http://127.0.0.1:9002", weight: 2}}

routes:
  # - name: api
  #   match: {{host: api.example.com, path: "/v1/users/{{id}}/**", methods: [GET, POST]}}
  #   upstream: app
  #   strip_prefix: /v1
  #   timeout: 2s

  - name: everything
    match: {{path: "/**"}}
    upstream: app
"""
