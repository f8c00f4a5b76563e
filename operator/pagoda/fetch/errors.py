"""How a download goes wrong. Pure."""

from pagoda.fetch.report import Failure, FailureReason


class FetchError(Exception):
    """It cannot succeed by being tried again; carries what the operator is told."""

    def __init__(self, reason: FailureReason, message: str):
        super().__init__(message)
        self.failure = Failure(reason, message)


class TransientError(Exception):
    """It may succeed a little later."""

    def __init__(self, message: str, retry_after: float | None = None):
        """Say what happened.

        Args:
            message: for people.
            retry_after: seconds that the server asks for.
        """
        super().__init__(message)
        self.retry_after = retry_after


class DiskFullError(Exception):
    """There is no room for the model."""


class WrongContentError(Exception):
    """A file's bytes are not those that the hub lists."""
