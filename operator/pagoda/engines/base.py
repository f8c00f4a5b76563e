"""What the operator must know about an engine to run it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class LaunchRequest:
    """What the LLMDeployment asks of one engine process."""

    model_path: str  # directory in the container
    served_name: str
    drain_seconds: int


@dataclass(frozen=True)
class EngineProfile:
    """Launch contract of one engine: command line, port, probes, metric names."""

    name: str
    default_image: str
    port: int
    command: tuple[str, ...]
    """What stands before all flags, such as a subcommand."""
    flags: Callable[[LaunchRequest], list[str]]
    """Flags the operator owns, placed after the user's so that they win."""
    env: dict[str, str]
    ready_path: str
    """HTTP path that is 200 only when the model is loaded and the engine takes requests."""
    live_path: str
    """HTTP path that fails when the engine hangs; asked only after the first readiness."""
    drain_delay_seconds: int
    """How long a stopping engine still accepts, while endpoints are being updated everywhere."""
    metrics: dict[str, str]
    """Meaning → Prometheus name. Meanings are those of the autoscaler."""

    def owned_flags(self, request: LaunchRequest) -> frozenset[str]:
        """List the flags that a user's args cannot override."""
        return frozenset(arg for arg in self.flags(request) if arg.startswith("--"))
