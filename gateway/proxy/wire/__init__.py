"""HTTP/1.1 as bytes: heads and bodies read strictly, messages written (RFC 9112)."""
