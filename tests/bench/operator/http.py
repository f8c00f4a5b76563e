"""The two bare clients, from a kubeconfig: plain aiohttp, and the Kubernetes client's generic call."""

import base64
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration


class Aiohttp:
    """An aiohttp session and nothing else: what this machine can do at best with one process."""

    def __init__(self, kubeconfig: Path, connections: int = 0):
        data = yaml.safe_load(kubeconfig.read_text())
        cluster, user = data["clusters"][0]["cluster"], data["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        for key in ("client-certificate-data", "client-key-data"):
            path = kubeconfig.with_suffix(f".{key}.pem")
            path.touch(mode=0o600)
            path.write_bytes(base64.b64decode(user[key]))
        context.load_cert_chain(
            kubeconfig.with_suffix(".client-certificate-data.pem"),
            kubeconfig.with_suffix(".client-key-data.pem"),
        )
        self._server = cluster["server"]
        connector = aiohttp.TCPConnector(ssl=context, limit=connections)
        self.session = aiohttp.ClientSession(self._server, connector=connector)

    async def send(self, method: str, uri: str, body: str, content_type: str) -> bytes:
        """Send one request."""
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        async with self.session.request(method, uri, data=body, headers=headers) as response:
            data = await response.read()
            if response.status >= 300:
                raise RuntimeError(f"{method} {uri}: {response.status} {data[:300]!r}")
            return data

    async def close(self) -> None:
        await self.session.close()


class Sdk:
    """The Kubernetes client's generic call, as it is meant to be used."""

    def __init__(self, configuration: Configuration):
        self._api = ApiClient(configuration)

    async def send(self, method: str, uri: str, body: Any, content_type: str) -> bytes:
        """Send one request; the body is an object."""
        path, _, query = uri.partition("?")
        request = await self._api.param_serialize(
            method,
            path,
            query_params=[tuple(part.split("=", 1)) for part in query.split("&") if part],
            header_params={"Content-Type": content_type, "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = await self._api.call_api(*request, _request_timeout=30)
        data: bytes = await response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {uri}: {response.status} {data[:300]!r}")
        return data

    async def close(self) -> None:
        await self._api.close()


async def sdk(kubeconfig: Path) -> Sdk:
    """Connect the Kubernetes client."""
    configuration = Configuration()
    await kube_config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    return Sdk(configuration)
