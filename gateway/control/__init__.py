"""The control plane: runs once per configuration, never per request. YAML file ▸ Config ▸ Snapshot."""
