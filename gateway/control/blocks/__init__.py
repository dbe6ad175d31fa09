"""One file for each block of the YAML: its model, its checks, what it becomes, how it is explained and shown."""
