"""What the operator must know about an engine to run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Accelerator = Literal["cpu", "gpu"]

PORT = 8000
# Endpoint changes reach every kube-proxy and load balancer within a few seconds; 10 leaves room.
DRAIN_DELAY_SECONDS = 10


@dataclass(frozen=True)
class LaunchRequest:
    """What the LLMDeployment asks of one engine process."""

    model_path: str  # directory in the container
    served_name: str
    drain_seconds: int
    memory_bytes: int
    cpus: int  # processors that it may keep busy, rounded up
    gpus: int = 0
    tensor_parallel: int = 1


@dataclass(frozen=True)
class DefaultResources:
    """Quantities for what the user leaves out."""

    cpu: str
    memory: str
    shared_memory: str | None  # None: no memory-backed /dev/shm


@dataclass(frozen=True)
class HttpProbe:
    """Asks an HTTP path; anything but 2xx and 3xx is a failure."""

    path: str


@dataclass(frozen=True)
class ExecProbe:
    """Runs a command in the container; anything but exit code 0 is a failure."""

    command: tuple[str, ...]


@dataclass(frozen=True)
class EngineProfile:
    """Launch contract of one engine: command line, port, probes, metric names."""

    name: str
    images: Mapping[Accelerator, str]
    """Default image by what it runs on."""
    port: int
    command: tuple[str, ...] | None
    """The container's command; None keeps the image's entry point."""
    arguments: tuple[str, ...]
    """What stands before all flags, such as a subcommand."""
    flags: Callable[[LaunchRequest], list[str]]
    """Flags the operator owns, placed after the user's so that they win."""
    env: Callable[[LaunchRequest], dict[str, str]]
    """Variables, which the user's of the same name replace."""
    resources: Callable[[int], DefaultResources]
    """Default resources by number of GPUs."""
    scratch_limit: str
    """Size of /tmp, the only writable place beside /dev/shm: caches are there."""
    ready: HttpProbe
    """Succeeds only when the model is loaded and the engine takes requests."""
    live: HttpProbe | ExecProbe
    """Fails when the engine hangs; asked only after the first readiness."""
    live_timeout_seconds: int
    drain_delay_seconds: int
    """How long a stopping engine still accepts, while endpoints are being updated everywhere."""
    delays_by_itself: bool
    """Whether the engine keeps the drain delay on SIGTERM; else the kubelet sleeps before it."""
    metrics: Mapping[str, tuple[str, ...]]
    """Meaning → series, `name` or `name{label="value"}`, the newest first. Meanings are the fields of
    `pagoda.autoscaling.samples.PodSample`."""

    def owned_flags(self, request: LaunchRequest) -> frozenset[str]:
        """List the flags that a user's args cannot override."""
        return frozenset(arg for arg in self.flags(request) if arg.startswith("--"))


def server_flags(request: LaunchRequest) -> list[str]:
    """List the flags that say what is served and where, spelled as vLLM's."""
    return [
        "--model",
        request.model_path,
        "--served-model-name",
        request.served_name,
        "--host",
        "0.0.0.0",
        "--port",
        str(PORT),
    ]
