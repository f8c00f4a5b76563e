"""HTTPS whose certificate and trusted authority change while it runs.

A certificate can be replaced in a live SSLContext; an authority cannot be taken out of one. So
every handshake is sent on to the context of the moment, and connections that were verified by an
earlier one do not count as verified any more.
"""

import asyncio
import os
import ssl

from aiohttp import web
from aiohttp.typedefs import Handler


class Listener:
    """The port that the API server talks to."""

    def __init__(self) -> None:
        self._pair = b""
        self._runner: web.AppRunner | None = None
        self._busy: set[asyncio.BaseTransport | None] = set()
        self._trusting = _context("")
        self._accepting = _context("")
        self._accepting.sni_callback = self._hand_over

    def present(self, certificate: bytes, key: bytes) -> None:
        """Show this certificate (PEM, with its chain) in handshakes from now on."""
        self._pair = key + certificate
        for context in (self._accepting, self._trusting):
            _load(context, self._pair)

    def trust(self, authority: str) -> None:
        """Verify clients' certificates by this authority alone (PEM; empty: by none).

        Raises:
            ValueError: it is no certificate.
        """
        context = _context(authority)
        if self._pair:
            _load(context, self._pair)
        self._trusting = context
        if self._runner is not None and self._runner.server is not None:
            for connection in self._runner.server.connections:
                if connection.transport not in self._busy:
                    connection.force_close()

    def peer(self, request: web.Request) -> str | None:
        """Give the common name of the client's verified certificate; None without one."""
        transport = request.transport
        if transport is None:
            return None
        tls = transport.get_extra_info("ssl_object")
        if tls is None or tls.context is not self._trusting:
            return None
        certificate = transport.get_extra_info("peercert") or {}
        names = [v for rdn in certificate.get("subject", ()) for k, v in rdn if k == "commonName"]
        return names[-1] if names else None

    async def serve(self, app: web.Application, host: str | None, port: int) -> None:
        """Accept connections; a certificate must be there."""
        app.middlewares.insert(0, self._see_out)
        self._runner = web.AppRunner(app, handle_signals=False, keepalive_timeout=90)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=self._accepting).start()

    async def close(self) -> None:
        """End it: no new connections, running requests are answered."""
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _see_out(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer what was begun before a change of the authority, and then close its connection."""
        transport, trusting = request.transport, self._trusting
        self._busy.add(transport)
        try:
            response = await handler(request)
        finally:
            self._busy.discard(transport)
        if trusting is not self._trusting:
            response.force_close()
        return response

    def _hand_over(
        self, tls: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        tls.context = self._trusting


def _context(authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A resumed session would carry a verified certificate past a change of the authority.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    # Asked for, as the API server shows one; not needed, as callers with a token have none.
    context.verify_mode = ssl.CERT_OPTIONAL
    # The authority is trusted itself, also if another one has signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if authority:
        try:
            context.load_verify_locations(cadata=authority)
        except ssl.SSLError as error:
            raise ValueError(f"the authority is no certificate: {error}") from error
    return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Load key and certificate, which Python takes only from a file, out of memory."""
    descriptor = os.memfd_create("tls")
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
