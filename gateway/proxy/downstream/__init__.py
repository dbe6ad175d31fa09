"""The clients' side: listening sockets, client connections and their time limits."""
