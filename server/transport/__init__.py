"""The port: sockets, handshakes, TLS, and the dispatch of connections to the parts that serve them."""
