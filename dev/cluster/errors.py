"""The one exception of this package."""


class ClusterError(Exception):
    """Something the user can act on; the command line prints it without a traceback."""
