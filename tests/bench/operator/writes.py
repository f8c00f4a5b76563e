"""The writes of one LLMDeployment, copied from the operator itself and turned into a template."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.operator.measure import AuditTail
from tests.bench.operator.setting import CAPTURE, USER, Setting, wait_until
from tests.builders import manifest
from tests.kube import Api

NAME = "captured-llmdeployment"


@dataclass(frozen=True)
class Template:
    """One write, with the name, uid and namespace of the resource it was copied from."""

    method: str
    uri: str
    content_type: str
    body: str
    uid: str

    def filled(self, namespace: str, name: str, uid: str) -> tuple[str, str]:
        """URI and body for another resource."""

        def fill(text: str) -> str:
            return text.replace(NAME, name).replace(CAPTURE, namespace).replace(self.uid, uid)

        return fill(self.uri), fill(self.body)


def capture(setting: Setting) -> list[Template]:
    """Let the operator make one LLMDeployment and take down what it sends."""
    tail = AuditTail(setting.cluster.audit_log)
    with setting.namespace(CAPTURE), setting.operator() as operator:
        api = Api(setting.cluster, CAPTURE)
        api.apply(manifest(NAME, CAPTURE))
        uid: str = (api.get("llmd", NAME) or {})["metadata"]["uid"]

        def reported() -> bool:
            return any("/status" in w.what and w.user == USER for w in tail.read())

        wait_until(reported, timeout=30, what="a status")
        operator.settle()
        writes = [w for w in tail.read() if w.user == USER and not w.is_dry_run]
    return [
        Template(w.method, w.uri, w.content_type, json.dumps(w.body), uid)
        for w in writes
        if w.namespace == CAPTURE
    ]


def save(templates: list[Template], path: Path) -> None:
    path.write_text(json.dumps([asdict(template) for template in templates]))


def load(path: Path) -> list[Template]:
    return [Template(**item) for item in json.loads(path.read_text())]


def summary(writes: list[Any]) -> dict[str, int]:
    """How many of each kind."""
    counts: dict[str, int] = {}
    for write in writes:
        counts[write.what] = counts.get(write.what, 0) + 1
    return dict(sorted(counts.items()))
