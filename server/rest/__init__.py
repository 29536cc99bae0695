"""The REST interface: what each request does, and what HTTP asks of a node."""
