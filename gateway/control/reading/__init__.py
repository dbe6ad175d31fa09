"""From bytes to a tree of values with places, and what is said of mistakes in it."""
