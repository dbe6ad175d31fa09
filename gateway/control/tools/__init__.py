"""What is done with a loaded configuration but running it."""
