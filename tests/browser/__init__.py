"""A page in a browser, from another origin than the server: ``make browser``."""
