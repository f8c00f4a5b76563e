"""JSON logs: one object per line, with the LLMDeployment that is being reconciled."""

import contextvars
import logging
import sys

from pythonjsonlogger.json import JsonFormatter

reconciling: contextvars.ContextVar[dict[str, object] | None] = contextvars.ContextVar(
    "reconciling", default=None
)


class _AddContext(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in (reconciling.get() or {}).items():
            setattr(record, name, value)
        return True


def configure(level: str) -> None:
    """Send all logging to standard error as JSON, at `level` and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",  # RFC 3339, UTC
        )
    )
    handler.addFilter(_AddContext())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # kopf says "succeeded" for every watch event and login, and aiohttp logs each probe.
    for chatty in ("kopf.objects", "kopf.activities", "kopf._core.engines.activities"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger("kopf").setLevel(max(logging.INFO, logging.getLogger().level))
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
