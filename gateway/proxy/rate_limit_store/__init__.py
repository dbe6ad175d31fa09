"""Who counts for rate limits: this process, the workers together, or Redis."""
