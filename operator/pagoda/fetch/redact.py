"""Keeps secrets out of logs, messages and progress. Pure."""

import re

MASK = "***"
# A signed address of a file server opens the file for everybody who reads it.
QUERY = re.compile(r"(https?://[^\s\"'?]+)\?[^\s\"']*")
CREDENTIALS = re.compile(r"(https?://)[^\s/\"'@]+@")
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{6,}")
BEARER = re.compile(r"(Bearer\s+)[^\s\"',]+", re.IGNORECASE)


class Redactor:
    """Masks one known token, and whatever looks like a secret."""

    def __init__(self, token: str | None):
        self._token = token

    def __call__(self, text: str) -> str:
        """Give the text without its secrets."""
        if self._token:
            text = text.replace(self._token, MASK)
        text = BEARER.sub(rf"\1{MASK}", HUB_TOKEN.sub(MASK, text))
        return CREDENTIALS.sub(rf"\1{MASK}@", QUERY.sub(rf"\1?{MASK}", text))
