"""A Hugging Face hub over HTTP."""

import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from pagoda.fetch.answers import Answer, Question, refusal, retry_after
from pagoda.fetch.errors import FetchError, TransientError, WrongContentError
from pagoda.fetch.plan import RemoteFile
from pagoda.fetch.report import FailureReason

CONNECT_SECONDS = 30
BUFFER_BYTES = 1 << 20
ERROR_BYTES = 4096  # of an error's body
MESSAGE_LIMIT = 300  # characters of a hub's own words in our messages
# What other programs call the bundle of certificates to trust; Python itself reads SSL_CERT_FILE.
BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class Body:
    """A file's bytes from `offset` on."""

    offset: int
    pieces: AsyncIterator[bytes]


class Hub:
    """Asks one hub for one repository.

    Proxies come from the usual variables (HTTPS_PROXY, NO_PROXY …).
    """

    def __init__(self, asked: Question, token: str | None, read_seconds: float):
        """Set up; the connection is opened by `async with`.

        Args:
            asked: hub, repository and revision.
            token: sent to the hub's own host only.
            read_seconds: a connection that brings nothing for so long is given up.
        """
        self._asked = asked
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "pagoda"}
        self._token_header = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=read_seconds
        )
        self._host = URL(asked.endpoint).origin()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=_trust()),
            headers=self._headers,
            timeout=self._timeout,
            trust_env=True,
            read_bufsize=BUFFER_BYTES,
            auto_decompress=False,
            requote_redirect_url=False,  # another spelling would break a signed address
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def listing(self) -> Mapping[str, Any]:
        """Ask for the commit and its files.

        Raises:
            FetchError: the hub refuses.
            TransientError: it should be asked again.
        """
        asked = self._asked
        path = f"/api/models/{asked.repo}/revision/{quote(asked.revision, safe='')}?blobs=true"
        async with self._get(path, asked) as response:
            data = await response.read()
        try:
            listing = json.loads(data)
        except ValueError as error:
            raise TransientError(
                f"{response.url.host} answers something that is no JSON"
            ) from error
        return listing if isinstance(listing, dict) else {}

    @asynccontextmanager
    async def read(self, sha: str, file: RemoteFile, offset: int) -> AsyncIterator[Body]:
        """Ask for a file's bytes from `offset` on; a server may begin at 0 all the same.

        Raises:
            FetchError: the hub refuses.
            TransientError: it should be asked again.
            WrongContentError: the file on the server has another size.
        """
        path = f"/{self._asked.repo}/resolve/{sha}/{quote(file.name)}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        asked = replace(self._asked, file=file.name)
        async with self._get(path, asked, headers) as response:
            start, total = 0, response.content_length
            if response.status == 206:
                start, total = _content_range(response)
            if total is not None and total != file.size:
                raise WrongContentError(f"{response.url.host} has {total} bytes")
            if start not in (0, offset):
                raise TransientError(
                    f"{response.url.host} sends another part than it was asked for"
                )
            yield Body(start, response.content.iter_any())

    @asynccontextmanager
    async def _get(
        self, path: str, asked: Question, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = URL(asked.endpoint + path, encoded=True)
        try:
            # aiohttp drops Authorization when a redirect leads to another origin.
            async with self._session.get(
                url, headers={**(headers or {}), **self._token_header}
            ) as response:
                if response.status not in (200, 206):
                    raise await self._explain(response, asked)
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            raise FetchError(
                FailureReason.HUB_UNAVAILABLE,
                f"The certificate of {error.host} is not trusted: {error.certificate_error}. Set "
                "SSL_CERT_FILE to a bundle that has its issuer.",
            ) from error
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise TransientError(_words(error)) from error

    async def _explain(
        self, response: aiohttp.ClientResponse, asked: Question
    ) -> FetchError | TransientError | WrongContentError:
        answer = Answer(
            status=response.status,
            host=response.url.host or "",
            is_hub=response.url.origin() == self._host,
            code=response.headers.get("X-Error-Code", ""),
            message=await _error_text(response),
            retry_after=retry_after(response.headers),
        )
        if answer.status == 416:
            return WrongContentError(f"{answer.host} has fewer bytes")
        if answer.is_transient:
            return TransientError(str(answer), answer.retry_after)
        valid = None
        if asked.has_token and answer.leaves_token_open:
            valid = await self._token_is_valid()
        return refusal(answer, asked, token_is_valid=valid)

    async def _token_is_valid(self) -> bool | None:
        """Ask who the token belongs to; None when the hub does not say."""
        try:
            async with self._session.get(
                URL(f"{self._asked.endpoint}/api/whoami-v2"), headers=self._token_header
            ) as response:
                return {200: True, 401: False}.get(response.status)
        except (aiohttp.ClientError, OSError):
            return None


def _content_range(response: aiohttp.ClientResponse) -> tuple[int, int | None]:
    match = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    if match is None:
        raise TransientError(f"{response.url.host} sends a part of the file without saying which")
    return int(match[1]), None if match[2] == "*" else int(match[2])


async def _error_text(response: aiohttp.ClientResponse) -> str:
    text = response.headers.get("X-Error-Message", "")
    if not text:
        body = await response.content.read(ERROR_BYTES)
        try:
            text = str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError):
            return ""  # a page for browsers
    return re.sub(r"\s+", " ", text).strip().rstrip(".")[:MESSAGE_LIMIT]


def _words(error: Exception) -> str:
    """Name an error; some have no text of their own."""
    if isinstance(error, TimeoutError):
        return "the connection brought nothing for too long"
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "the connection broke"
    return str(error) or type(error).__name__


def _trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    for variable in BUNDLE_VARIABLES:
        if bundle := os.environ.get(variable):
            path = Path(bundle)
            if path.is_dir():
                context.load_verify_locations(capath=bundle)
            else:
                context.load_verify_locations(cafile=bundle)
    return context
