"""The replicas' ServiceAccount: no permission, no token."""

from pagoda.render.objects import Object, Owner


def service_account(owner: Owner) -> Object:
    """Build the ServiceAccount."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": owner.metadata(),
        "automountServiceAccountToken": False,
    }
