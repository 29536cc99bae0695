"""The engine of one process, connected to time, threads and the loop."""
