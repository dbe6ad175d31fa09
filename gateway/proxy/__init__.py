"""The data plane: runs per request. Read `pipeline.py` (the life of a request), then `forward.py` (the attempt loop)."""
