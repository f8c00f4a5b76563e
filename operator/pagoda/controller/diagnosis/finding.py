"""A cause, before it becomes a status."""

from dataclasses import dataclass, field
from typing import Any

from pagoda.api.conditions import Reason


@dataclass(frozen=True)
class Finding:
    """A cause, with what its message needs."""

    reason: Reason
    details: dict[str, Any] = field(default_factory=dict)

    def explain(self) -> str:
        """Say what happened and what to do."""
        return self.reason.explain(**self.details)
