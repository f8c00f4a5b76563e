"""How clients reach a model: Service and Ingress."""

from typing import Annotated, Literal

from pydantic import Field

from pagoda.api.common import ObjectName, Text
from pagoda.api.schema import ApiModel, rule, rules


class ServiceExposure(ApiModel):
    """The Service in front of the replicas."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] | None = Field(
        default=None, description="Type of the Service. Default: ClusterIP."
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Port of the Service. Default: 80."
    )
    annotations: Annotated[dict[str, Text], Field(max_length=64)] | None = Field(
        default=None, description="Annotations of the Service, for example for a load balancer."
    )


class IngressTls(ApiModel):
    """TLS of the Ingress."""

    secret_name: ObjectName = Field(
        description="Secret of the same namespace with certificate and key (kubernetes.io/tls)."
    )


class Ingress(ApiModel):
    """An Ingress that leads from outside the cluster to the model."""

    class_name: ObjectName | None = Field(
        default=None, description="IngressClass. Default: the cluster's default class."
    )
    host: str = Field(
        description="DNS name under which clients reach the model.",
        max_length=253,
        json_schema_extra=rules(
            rule(
                "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$') "
                "&& !self.matches('^[0-9.]+$')",
                "spec.expose.ingress.host must be one DNS name in lower case, for example "
                "llm.example.com: no scheme, port, path, IP address or wildcard",
            )
        ),
    )
    tls: IngressTls | None = Field(default=None, description="TLS. Default: plain HTTP.")
    annotations: Annotated[dict[str, Text], Field(max_length=64)] | None = Field(
        default=None,
        description="Annotations of the Ingress. They win over those that keep streams alive, which "
        "the operator adds for the classes that need them.",
    )


class Expose(ApiModel):
    """How clients reach the model."""

    service: ServiceExposure | None = Field(
        default=None, description="Settings of the Service, which always exists."
    )
    ingress: Ingress | None = Field(default=None, description="An Ingress. Default: none.")
