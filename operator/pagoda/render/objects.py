"""Names, labels and metadata shared by all rendered objects."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pagoda.api import API_VERSION, GROUP, KIND

Object = dict[str, Any]

SELECTOR_LABEL = f"{GROUP}/llmdeployment"
REVISION_LABEL = f"{GROUP}/revision"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "pagoda"
SPEC_HASH_ANNOTATION = f"{GROUP}/spec-hash"
SUCCESSOR_OF_ANNOTATION = f"{GROUP}/successor-of"


@dataclass(frozen=True)
class Owner:
    """The LLMDeployment as its children refer to it."""

    namespace: str
    name: str
    uid: str
    generation: int

    def selector(self) -> dict[str, str]:
        """Build the one fixed label by which Service, Deployment and PDB find the pods."""
        return {SELECTOR_LABEL: self.name}

    def labels(self) -> dict[str, str]:
        """Build the labels of every child; none is copied from the owner (Argo CD tracks by label)."""
        return self.selector() | {MANAGED_BY_LABEL: MANAGED_BY}

    def reference(self) -> Object:
        """Build the controller reference through which garbage collection removes the child."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }

    def metadata(
        self, name: str | None = None, annotations: dict[str, str] | None = None
    ) -> Object:
        """Build the metadata of a child; `name` defaults to the owner's."""
        metadata: Object = {
            "name": name or self.name,
            "namespace": self.namespace,
            "labels": self.labels(),
            "ownerReferences": [self.reference()],
        }
        if annotations:
            metadata["annotations"] = annotations
        return metadata


def digest(value: Any) -> str:
    """Hash JSON data to ten hexadecimal digits, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]
