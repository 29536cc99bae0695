"""The server: everything that uses trio, sockets and threads."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("unbroken")
except PackageNotFoundError:  # run from a checkout that nobody has installed
    VERSION = "0.1.0"
