"""What a change that the API server refuses says about the spec. Pure."""

import re
from typing import Any

from pagoda.api import conditions as reasons
from pagoda.controller.diagnosis import Finding, rejection, shorten
from pagoda.kube.errors import PodSecurityError, RejectedError

# A field of the Deployment's pod template: `spec.template.spec.volumes[2].hostPath`.
_POD_FIELD = re.compile(r"\bspec\.template\.(metadata|spec)\.(\w+)")
# How the API server names those who refused.
_POLICIES = ("admission webhook", "ValidatingAdmissionPolicy", "failed calling webhook")
_CONVERSION = "failed to convert new object"
_CONVERSION_OBJECT = re.compile(r"^failed to convert new object \([^)]*\)[^:]*: ")
# Of a template's labels and annotations it leaves `metadata` out of the path.
_TEMPLATE_METADATA = re.compile(r"\bspec\.template\.(?=labels|annotations)")
_TYPED_PATCH = re.compile(r"^failed to create typed patch object \([^)]*\): \.?")


def refusal(error: RejectedError, pod_template: dict[str, Any] | None) -> Finding:
    """Tell a mistake in the spec from a policy, a quota or a permission.

    Args:
        error: how the API server refused a child.
        pod_template: spec.podTemplate, which is to blame for the fields that it sets.
    """
    detail = shorten(error.message)
    if isinstance(error, PodSecurityError):
        reason = reasons.POD_TEMPLATE_INVALID if pod_template else reasons.POD_REJECTED
        return Finding(reason, {"detail": detail})
    if "exceeded quota" in error.message or any(text in error.message for text in _POLICIES):
        return rejection(error.message)
    if error.status == 403:
        return Finding(reasons.FORBIDDEN, {"detail": detail})
    if pod_template and _CONVERSION in error.message:  # it names no field
        text = _CONVERSION_OBJECT.sub("a value has the wrong type: ", error.message)
        return Finding(reasons.POD_TEMPLATE_INVALID, {"detail": shorten(text)})
    message = _TEMPLATE_METADATA.sub("spec.template.metadata.", error.message)
    fields = _POD_FIELD.findall(message)
    if any(field in ((pod_template or {}).get(part) or {}) for part, field in fields):
        text = _TYPED_PATCH.sub("", message).replace("spec.template.", "spec.podTemplate.")
        return Finding(reasons.POD_TEMPLATE_INVALID, {"detail": shorten(text)})
    return Finding(reasons.INVALID_SPEC, {"detail": detail})
