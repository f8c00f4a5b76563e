"""The Ingress in front of the Service, with the settings that keep streams alive.

An answer that is streamed may be silent while the engine works through a long prompt, and goes on for
minutes. Many controllers cut a connection after 60 silent seconds and some gather an answer before they
pass it on. What each needs against that stands in one table; the user's annotations win over it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pagoda.api.exposure import Ingress
from pagoda.render.objects import Object, Owner

STREAM_SECONDS = 3600
BODY_LIMIT = "64m"  # nginx allows 1 MB, which a prompt with images exceeds


@dataclass(frozen=True)
class Family:
    """Ingress controllers that understand the same annotations."""

    controller: str
    """How `spec.controller` of their IngressClasses begins."""
    hint: str
    """Word in the usual names of their classes, for where IngressClasses may not be read."""
    annotations: Mapping[str, str]


FAMILIES: tuple[Family, ...] = (
    # kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations
    Family(
        "k8s.io/ingress-nginx",
        "nginx",
        {
            "nginx.ingress.kubernetes.io/proxy-read-timeout": str(STREAM_SECONDS),
            "nginx.ingress.kubernetes.io/proxy-send-timeout": str(STREAM_SECONDS),
            "nginx.ingress.kubernetes.io/proxy-buffering": "off",
            "nginx.ingress.kubernetes.io/proxy-body-size": BODY_LIMIT,
        },
    ),
    # docs.nginx.com/nginx-ingress-controller, "Advanced configuration with annotations"
    Family(
        "nginx.org/ingress-controller",
        "nginx-plus",
        {
            "nginx.org/proxy-read-timeout": f"{STREAM_SECONDS}s",
            "nginx.org/proxy-send-timeout": f"{STREAM_SECONDS}s",
            "nginx.org/proxy-buffering": "False",
            "nginx.org/client-max-body-size": BODY_LIMIT,
        },
    ),
    # haproxy.com/documentation/kubernetes-ingress, annotation reference. The client's side has a
    # setting of the whole controller only.
    Family(
        "haproxy.org/ingress-controller",
        "haproxy",
        {"haproxy.org/timeout-server": f"{STREAM_SECONDS}s"},
    ),
    # haproxy-ingress.github.io/docs/configuration/keys, section "Timeout"
    Family(
        "haproxy-ingress.github.io/controller",
        "haproxy-ingress",
        {
            "haproxy-ingress.github.io/timeout-server": f"{STREAM_SECONDS}s",
            "haproxy-ingress.github.io/timeout-tunnel": f"{STREAM_SECONDS}s",
        },
    ),
    # kubernetes-sigs.github.io/aws-load-balancer-controller, "Ingress annotations". Instances would
    # need a NodePort Service; ip goes to the pods. It takes a target for healthy by `/`, which
    # no engine has.
    Family(
        "ingress.k8s.aws/alb",
        "alb",
        {
            "alb.ingress.kubernetes.io/target-type": "ip",
            "alb.ingress.kubernetes.io/load-balancer-attributes": (
                f"idle_timeout.timeout_seconds={STREAM_SECONDS}"
            ),
            "alb.ingress.kubernetes.io/healthcheck-path": "/health",
        },
    ),
    # projectcontour.io/docs, "Annotations reference": Envoy ends an answer after 15 s otherwise.
    Family("projectcontour.io/", "contour", {"projectcontour.io/response-timeout": "infinity"}),
    # Neither cuts nor gathers by default (doc.traefik.io, "Responding timeouts": writeTimeout 0).
    Family("traefik.io/ingress-controller", "traefik", {}),
)


@dataclass(frozen=True)
class IngressClassFact:
    """What is known of the class that an Ingress goes to."""

    is_missing: bool = False
    controller: str | None = None  # None: it may not be read, or no class is the default


UNKNOWN_CLASS = IngressClassFact()


def ingress(owner: Owner, wanted: Ingress, known: IngressClassFact) -> Object:
    """Build the Ingress: one host, everything below it to the Service."""
    family = family_of(wanted.class_name, known)
    annotations = dict(family.annotations) if family else {}
    backend = {"service": {"name": owner.name, "port": {"name": "http"}}}
    spec: Object = {
        "rules": [
            {
                "host": wanted.host,
                "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
            }
        ]
    }
    if wanted.class_name:
        spec["ingressClassName"] = wanted.class_name
    if wanted.tls:
        spec["tls"] = [{"hosts": [wanted.host], "secretName": wanted.tls.secret_name}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": owner.metadata(annotations=annotations | (wanted.annotations or {})),
        "spec": spec,
    }


def ingress_url(wanted: Ingress) -> str:
    """Build the base URL of the OpenAI API for clients outside the cluster."""
    return f"{'https' if wanted.tls else 'http'}://{wanted.host}/v1"


def family_of(class_name: str | None, known: IngressClassFact) -> Family | None:
    """Find the controllers' family by what the class says, else by its name."""
    if known.controller is not None:
        return next((f for f in FAMILIES if known.controller.startswith(f.controller)), None)
    hints = [family for family in FAMILIES if family.hint in (class_name or "")]
    return max(hints, key=lambda family: len(family.hint), default=None)
