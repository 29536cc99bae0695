"""One client of the realtime protocol, sans-IO: what it may say, and what it is told."""
