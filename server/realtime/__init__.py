"""One client of the realtime protocol, sans-IO: the messages it may send and the messages it receives."""
