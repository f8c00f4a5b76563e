"""The Service in front of the replicas."""

from pagoda.render.effective import Effective
from pagoda.render.objects import Object, Owner


def service(owner: Owner, eff: Effective) -> Object:
    """Build the Service: the CR's name, the user's port, the engine's port behind it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owner.metadata(annotations=dict(eff.service_annotations)),
        "spec": {
            "type": eff.service_type,
            "selector": owner.selector(),
            "ports": [
                {
                    "name": "http",
                    "port": eff.service_port,
                    "protocol": "TCP",
                    "targetPort": "http",
                    "appProtocol": "http",
                }
            ],
        },
    }


def url(owner: Owner, eff: Effective) -> str:
    """Build the base URL of the OpenAI API for clients inside the cluster."""
    port = "" if eff.service_port == 80 else f":{eff.service_port}"
    return f"http://{owner.name}.{owner.namespace}.svc{port}/v1"
