"""The services' side: connections, their pools, and what is known of each endpoint."""
