"""What refusals of a hub mean."""

import pytest
from pagoda.fetch.answers import Answer, Question, refusal, retry_after
from pagoda.fetch.report import FailureReason

DENIED, UNKNOWN = FailureReason.MODEL_ACCESS_DENIED, FailureReason.MODEL_NOT_FOUND
OTHER = FailureReason.FETCH_FAILED
BAD_TOKEN = "Invalid credentials in Authorization header"


def question(**changes: object) -> Question:
    base = {"endpoint": "https://hub.test", "repo": "o/n", "revision": "v1", "has_token": False}
    return Question(**(base | changes))  # type: ignore[arg-type]


def answer(status: int, code: str = "", message: str = "", *, is_hub: bool = True) -> Answer:
    return Answer(status, "hub.test", is_hub, code, message)


@pytest.mark.parametrize(
    ("status", "code", "message", "has_token", "token_is_valid", "reason", "words"),
    [
        (401, "GatedRepo", "", False, None, DENIED, "Accept the licence at https://hub.test/o/n"),
        (403, "GatedRepo", "", True, None, DENIED, "the token's account has no access yet"),
        (404, "RevisionNotFound", "", False, None, UNKNOWN, "no revision 'v1'"),
        (404, "EntryNotFound", "", False, None, UNKNOWN, "lists the file"),
        (401, "RepoNotFound", "", False, None, UNKNOWN, "or it is private. Correct"),
        # The text that huggingface.co sends to whoever is not logged in is not about a token.
        (401, "RepoNotFound", "Invalid username or password.", False, None, UNKNOWN, "put a token"),
        (404, "RepoNotFound", "", True, None, UNKNOWN, "or the token is not valid"),
        (401, "RepoNotFound", "", True, True, UNKNOWN, "may not read it. Correct"),
        (401, "RepoNotFound", "", True, False, DENIED, "does not know the token"),
        (401, "", BAD_TOKEN, True, None, DENIED, "does not know the token"),
        (401, "", "", True, True, UNKNOWN, "may not read it"),
        (401, "", "", True, False, DENIED, "does not know the token"),
        (401, "", "", True, None, DENIED, "Correct the key HF_TOKEN"),
        (401, "", "", False, None, DENIED, "Put a token into the key HF_TOKEN"),
        (403, "", "disabled", False, None, DENIED, "hub.test answers 403 (disabled)"),
        (403, "", "", True, None, DENIED, "Give the token the right"),
        (451, "", "", False, None, DENIED, "answers 451"),
        (404, "", "", False, None, UNKNOWN, "does not have o/n"),
        (400, "", "", False, None, OTHER, "answers 400"),
    ],
)
def test_refusals(status, code, message, has_token, token_is_valid, reason, words):
    asked = question(has_token=has_token)
    failure = refusal(answer(status, code, message), asked, token_is_valid=token_is_valid).failure
    assert failure.reason == reason
    assert words in failure.message


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_passes(status):
    assert answer(status).is_transient


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_only_the_hub_itself_can_refuse(status):
    assert not answer(status).is_transient
    assert answer(status, is_hub=False).is_transient


def test_whoami_is_asked_only_when_the_answer_leaves_it_open():
    assert answer(401).leaves_token_open
    assert answer(401, "RepoNotFound").leaves_token_open
    assert not answer(401, "", BAD_TOKEN).leaves_token_open
    assert not answer(401, "GatedRepo").leaves_token_open
    assert not answer(404, "RepoNotFound").leaves_token_open


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after({"Retry-After": value}, now=10.0) == seconds
