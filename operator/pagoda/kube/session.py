"""HTTP connections to the API server, made from the Kubernetes client's configuration.

The Kubernetes client reads kubeconfigs, tokens and certificates; the requests themselves go through
aiohttp directly. Its generic call costs twice the CPU time: it copies bodies and URLs, and asks a
thread for the proxy before each request.
"""

import ssl
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
from kubernetes.aio.client import Configuration
from multidict import CIMultiDictProxy
from yarl import URL


class Response(NamedTuple):
    """A whole answer."""

    status: int
    data: bytes
    headers: CIMultiDictProxy[str]


class Session:
    """A pool of connections that knows where the API server is and who we are."""

    def __init__(self, configuration: Configuration, *, connections: int = 0):
        """Open no connection yet; `connections` is how many there may be, 0 for any number."""
        self.configuration = configuration
        parts = urlsplit(configuration.host)
        bypassed = urllib.request.proxy_bypass(parts.hostname or "")
        proxies = {} if bypassed else urllib.request.getproxies()
        self._options: dict[str, Any] = {
            "proxy": configuration.proxy or proxies.get(parts.scheme),
            "proxy_headers": configuration.proxy_headers,
            "server_hostname": configuration.tls_server_name,
        }
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=_tls(configuration), limit=connections),
            timeout=aiohttp.ClientTimeout(total=None),  # the caller sets one
        )

    async def request(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: bytes | None,
        content_type: str,
        accept: str,
    ) -> Response:
        """Send a request and read the answer."""
        headers = {"Accept": accept, "Content-Type": content_type} | await self._authorization()
        async with self._session.request(
            method, self._url(path, query), data=body, headers=headers, **self._options
        ) as answer:
            return Response(answer.status, await answer.read(), answer.headers)

    @asynccontextmanager
    async def stream(
        self, path: str, query: dict[str, str], *, silence: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open an answer that is read as it comes; nothing for `silence` seconds is an error."""
        headers = {"Accept": "application/json"} | await self._authorization()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence)
        async with self._session.get(
            self._url(path, query), headers=headers, timeout=timeout, **self._options
        ) as answer:
            yield answer

    async def _authorization(self) -> dict[str, str]:
        # Reads a rotated token again when it is due.
        token = await self.configuration.get_api_key_with_prefix("BearerToken")
        return {"Authorization": token} if token else {}

    def _url(self, path: str, query: dict[str, str]) -> URL:
        url = f"{self.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        return URL(url, encoded=True)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _tls(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data
    )
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.disable_strict_ssl_verification:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
