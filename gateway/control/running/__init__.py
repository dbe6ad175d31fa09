"""What runs a configuration: start, reload, active probes and names of endpoints that are looked up again."""
