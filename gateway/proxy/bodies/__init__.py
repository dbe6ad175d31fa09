"""Message bodies in motion: relayed, encoded, decoded, tunnelled."""
