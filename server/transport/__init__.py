"""The port, and who comes to it: sockets, handshakes, TLS, and who serves what has come in."""
