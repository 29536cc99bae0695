"""The engine of one process, connected to clocks, threads and the event loop."""
