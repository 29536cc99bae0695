"""HTTP/1.1: parses requests, and writes answers that client libraries can read."""
