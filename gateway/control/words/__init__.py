"""What blocks are made of: values with units, names, models, inheritance."""
