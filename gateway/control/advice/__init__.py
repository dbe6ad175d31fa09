"""What is said about mistakes, so that they can be mended at once. Nothing here is read while nothing is wrong."""
