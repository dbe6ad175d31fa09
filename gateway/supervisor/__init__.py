"""Several workers as one gateway. A gateway of one process imports nothing of this package."""
