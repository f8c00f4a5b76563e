"""What this machine can compute on, told without torch: both processes ask."""

from __future__ import annotations

from pathlib import Path

# The driver's control device: a container has it if it was given a GPU.
_CONTROL = Path("/dev/nvidiactl")


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is at hand. A driver without one counts too: torch says what is wrong."""
    return _CONTROL.exists()
