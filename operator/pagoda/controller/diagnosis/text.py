"""Others' texts, made fit for a status: one line, no secret, and the same for the same cause."""

import re

MESSAGE_LIMIT = 600  # characters; a pod's message can be a whole log tail
# From about here on the kubelet has cut off the beginning (2048 bytes of a log, 4096 of a message).
CUT_BYTES = 2000

_NAMES = (
    r"[\w.-]*(?:token(?!s|iz)|passw(?:or)?d|passphrase|secret|credential|authori[sz]ation"
    r"|api[-_]?key|access[-_]?key|private[-_]?key|signature|cookie)[\w.-]*"
)
# Each with what stands before the secret as group 1.
SECRETS = (
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*-----|$)"),
    re.compile(r"(\w+://)[^\s/@\"']+@"),  # a URL's user and password
    re.compile(r"(\b(?:Bearer|Basic)\s+)(?!realm=)[^\s\"',]{6,}", re.IGNORECASE),
    # By the issuers' prefixes: Hugging Face, GitHub, GitLab, OpenAI, Slack, AWS; a JSON Web Token.
    re.compile(r"((?:hf|gh[pousr]|glpat|sk|xox[abeprs])[_-])[\w-]{6,}", re.IGNORECASE),
    re.compile(r"(\b(?:AKIA|ASIA))[A-Z0-9]{8,}"),
    re.compile(r"(\beyJ)[\w-]{8,}(?:\.[\w-]*){0,2}"),
    # By name, as in TOKEN=x, "password": "x y", authorization: Bearer x, &X-Amz-Signature=x; an HTTP
    # status after a URL that ends in /token is none.
    re.compile(
        rf"({_NAMES}[\\\"']*\s*[=:]\s*)(?!\d{{3}}\s)"
        r"(?:\\?\"[^\"]*(?:\"|$)|\\?'[^']*(?:'|$)|(?:(?:Bearer|Basic|Token)\s+)?[^\s\"',&]+)",
        re.IGNORECASE,
    ),
)
# What differs from one occurrence to the next: a status must not be written for it.
NOISE = (
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "…"),
    (re.compile(r"\b[0-9a-f]{32,}\b"), "…"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\s?"), ""),
    (re.compile(r"\b(?:INFO|WARNING|ERROR|CRITICAL|DEBUG) \d\d-\d\d \d\d:\d\d:\d\d "), ""),
    (re.compile(r"\(\w+ pid=\d+\) ?"), ""),
    (re.compile(r"\b0x[0-9a-f]{6,}\b"), "0x…"),
    # A connection's own port is another one each time.
    (re.compile(r"((?:\d+\.){3}\d+|\[[0-9a-f:]+\]):\d+->"), r"\1->"),
    (re.compile(r"rpc error: code = \w+ desc = "), ""),
    (re.compile(r'Back-off pulling image "[^"]*"(?:: ErrImagePull)?:? ?'), ""),
)


def shorten(message: str) -> str:
    """Make one line of a message, without secrets and not too long; a log's end tells most."""
    line = redact(re.sub(r"\s+", " ", message).strip())
    for pattern, replacement in NOISE:
        line = pattern.sub(replacement, line)
    line = line.strip()
    return line if len(line) <= MESSAGE_LIMIT else "…" + line[-MESSAGE_LIMIT:]


def shorten_tail(log: str) -> str:
    """Make one line of the end of a log. A first line that is cut may begin within a secret."""
    if len(log.encode()) >= CUT_BYTES and "\n" in log:
        log = log.split("\n", 1)[1]
    return shorten(log)


def redact(line: str) -> str:
    """Replace everything in a line that may be a secret."""
    for pattern in SECRETS:
        line = pattern.sub(r"\1***", line)
    return line


def same_but_for_numbers(one: str, other: str) -> bool:
    """Tell whether two messages differ in nothing but counts, times and the like."""
    return re.sub(r"\d+", "0", one) == re.sub(r"\d+", "0", other)
