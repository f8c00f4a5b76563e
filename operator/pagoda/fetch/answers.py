"""What a hub's refusal means. Pure.

Codes and texts are those that huggingface.co sends in X-Error-Code and X-Error-Message. It answers
401, not 404, for a repository that it does not want to talk about, and 401 as well to a wrong token.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from pagoda.fetch.errors import FetchError
from pagoda.fetch.report import FailureReason

BAD_TOKEN = "Invalid credentials in Authorization header"
TOKEN_KEY = "the key HF_TOKEN of the Secret named in spec.model.secretRef"


@dataclass(frozen=True)
class Answer:
    """An answer that is not the one that was wished for."""

    status: int
    host: str
    is_hub: bool
    """False for a file server to which the hub redirected."""
    code: str = ""
    message: str = ""
    retry_after: float | None = None

    @property
    def is_transient(self) -> bool:
        """Tell whether the same request may be answered well later.

        A file server is asked with an address that the hub signs for each try, so it refuses only
        what has run out.
        """
        return self.status in (408, 425, 429) or self.status >= 500 or not self.is_hub

    @property
    def leaves_token_open(self) -> bool:
        """Tell whether a token that was sent may be what is wrong."""
        return self.status == 401 and self.code in ("", "RepoNotFound") and not self.says_bad_token

    @property
    def says_bad_token(self) -> bool:
        """Tell whether the hub says that the token is none."""
        return self.status == 401 and BAD_TOKEN in self.message

    def __str__(self) -> str:
        text = f"{self.host} answers {self.status}"
        return f"{text} ({self.message})" if self.message else text


@dataclass(frozen=True)
class Question:
    """What was asked for, as far as messages need it."""

    endpoint: str
    repo: str
    revision: str
    has_token: bool
    file: str = ""


def refusal(answer: Answer, asked: Question, *, token_is_valid: bool | None = None) -> FetchError:
    """Explain an answer that will not change by being asked for again.

    Args:
        answer: the hub's.
        asked: the question that it answers.
        token_is_valid: what the hub says about the token when asked for that alone; None when it
            was not asked or did not say.
    """
    repo = asked.repo
    if answer.code == "GatedRepo":
        return _gated(asked)
    if answer.code == "RevisionNotFound":
        return _not_found(
            f"{repo} has no revision {asked.revision!r}. Correct spec.model.revision."
        )
    if answer.code == "EntryNotFound":
        return _not_found(f"{repo} lists the file {asked.file} but does not have it.")
    if answer.says_bad_token or (answer.leaves_token_open and token_is_valid is False):
        return _denied(
            f"The hub {asked.endpoint} does not know the token (it may have been revoked or have "
            f"run out). Put a valid one into {TOKEN_KEY}."
        )
    if answer.code == "RepoNotFound":
        return _unknown(asked, token_is_valid)
    if answer.status == 401:
        if asked.has_token and token_is_valid:
            return _unknown(asked, token_is_valid)
        advice = "Correct" if asked.has_token else "Put a token into"
        return _denied(f"The hub refuses {repo}: {answer}. {advice} {TOKEN_KEY}.")
    if answer.status == 404:
        return _not_found(
            f"The hub {asked.endpoint} does not have {asked.file or repo}. Check spec.model.uri and "
            "that the address is a Hugging Face hub's."
        )
    if answer.status in (403, 451):
        return _denied(f"The hub refuses {repo}: {answer}. {_permission(asked)}")
    return FetchError(FailureReason.FETCH_FAILED, f"The hub does not take the request: {answer}.")


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Read Retry-After, in seconds or as a date (RFC 9110, 10.2.3), as seconds from `now`."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value).timestamp()
    except ValueError:
        return None
    return max(0.0, when - (time.time() if now is None else now))


def _gated(asked: Question) -> FetchError:
    page = f"{asked.endpoint}/{asked.repo}"
    if asked.has_token:
        return _denied(
            f"{asked.repo} is gated and the token's account has no access yet, or the token may not "
            f"read gated repositories. Accept the licence at {page} with that account."
        )
    return _denied(
        f"{asked.repo} is gated. Accept the licence at {page} and put a token of that account into "
        f"{TOKEN_KEY}."
    )


def _unknown(asked: Question, token_is_valid: bool | None) -> FetchError:
    if not asked.has_token:
        return _not_found(
            f"The hub {asked.endpoint} has no {asked.repo}, or it is private. Correct "
            f"spec.model.uri; if it is private, put a token into {TOKEN_KEY}."
        )
    doubt = "" if token_is_valid is not None else ", or the token is not valid"
    return _not_found(
        f"The hub {asked.endpoint} has no {asked.repo}, or it is private and the token's account may "
        f"not read it{doubt}. Correct spec.model.uri or give the account access."
    )


def _permission(asked: Question) -> str:
    if asked.has_token:
        return "Give the token the right to read it."
    return f"If it needs a token, put one into {TOKEN_KEY}."


def _denied(message: str) -> FetchError:
    return FetchError(FailureReason.MODEL_ACCESS_DENIED, message)


def _not_found(message: str) -> FetchError:
    return FetchError(FailureReason.MODEL_NOT_FOUND, message)
