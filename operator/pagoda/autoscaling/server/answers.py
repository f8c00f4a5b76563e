"""Values and errors in the shapes of the Kubernetes API. Pure."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from pagoda.api import API_VERSION
from pagoda.autoscaling.server.discovery import DEPLOYMENTS, GROUP_VERSION, KINDS
from pagoda.render.objects import Object

# A Quantity is read as an int64 of thousandths.
LARGEST = (2**63 - 1) / 1000


class ApiError(Exception):
    """What a request ends with instead of a value."""

    def __init__(self, code: int, reason: str, message: str):
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message

    def status(self) -> Object:
        """Build the metav1.Status."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }


@dataclass(frozen=True)
class Reading:
    """One value of one object."""

    name: str
    value: float
    time: float  # of the newest scrape in it, in seconds since 1970
    window_seconds: int | None  # what a rate was taken over; None: a value of the moment


def value_list(resource: str, namespace: str, metric: str, readings: Sequence[Reading]) -> Object:
    """Build the MetricValueList."""
    version = API_VERSION if resource == DEPLOYMENTS else "v1"
    return {
        "kind": "MetricValueList",
        "apiVersion": GROUP_VERSION,
        "metadata": {},
        "items": [
            {
                "describedObject": {
                    "kind": KINDS[resource],
                    "namespace": namespace,
                    "name": reading.name,
                    "apiVersion": version,
                },
                "metric": {"name": metric, "selector": None},
                "timestamp": timestamp(reading.time),
                "windowSeconds": reading.window_seconds,
                "value": quantity(reading.value),
            }
            for reading in readings
        ],
    }


def quantity(value: float) -> str:
    """Write a number as a Quantity: whole, or in thousandths.

    Raises:
        ValueError: it is negative, too large, or no number.
    """
    if not 0 <= value <= LARGEST:
        raise ValueError(f"{value} is no quantity")
    whole, thousandths = divmod(round(value * 1000), 1000)
    return f"{whole * 1000 + thousandths}m" if thousandths else str(whole)


def timestamp(seconds: float) -> str:
    """Write a time as RFC 3339 in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
