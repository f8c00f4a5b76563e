"""All that is known, in one answer: what the operator's leader asks for. Pure."""

from dataclasses import fields

from pagoda.autoscaling.capacity import saturated_rate
from pagoda.autoscaling.law import Constants
from pagoda.autoscaling.overload import overload
from pagoda.autoscaling.samples import PodState
from pagoda.autoscaling.scraping.roster import Deployment, Key, Roster
from pagoda.autoscaling.server.answers import timestamp
from pagoda.autoscaling.server.discovery import GROUP_VERSION
from pagoda.autoscaling.server.registration import Registration
from pagoda.render.objects import Object

# Below the group, so that the API server leads the operator here.
PATH = f"/apis/{GROUP_VERSION}/signals"


def signals(
    roster: Roster, registration: Registration, constants: Constants, *, whole: bool, now: float
) -> Object:
    """Build the answer.

    Args:
        roster: all LLMDeployments.
        registration: whether the HPA can ask us.
        constants: of the law.
        whole: whether this replica has watched for a full window.
        now: monotonic.
    """
    return {
        "kind": "Signals",
        "apiVersion": GROUP_VERSION,
        "metricsAPI": {
            "registered": not registration.reason,
            "reason": registration.reason,
            "message": registration.message,
        },
        "wholeWindow": whole,
        "items": [
            _item(key, deployment, constants, now)
            for key, deployment in sorted(roster.deployments.items())
        ],
    }


def _item(key: Key, deployment: Deployment, constants: Constants, now: float) -> Object:
    measured = deployment.signals
    return {
        "namespace": key[0],
        "name": key[1],
        "uid": deployment.uid,
        "scrapedAt": timestamp(deployment.scraped_at) if deployment.scraped_at else None,
        "signals": {
            field.name: {
                "value": getattr(measured, field.name).value,
                "reason": getattr(measured, field.name).reason,
            }
            for field in fields(measured)
        }
        if measured is not None
        else {},
        "pods": {
            "starting": deployment.count(PodState.STARTING),
            "serving": deployment.count(PodState.SERVING),
            "leaving": deployment.count(PodState.LEAVING),
            "blind": deployment.blind(now),
        },
        "overload": overload([r.history for r in deployment.replicas.values()], now),
        # What replicas with a queue all the time got done: from this capacity is learned.
        "saturated": [
            {
                "pod": replica.name,
                "revision": replica.history.revision,
                "tokensPerSecond": rate,
            }
            for replica in deployment.replicas.values()
            if replica.exists
            and (rate := saturated_rate(replica.history, now, constants.prompt_weight)) is not None
        ],
    }
