"""`pagoda diff`: what a changed LLMDeployment would change, without an API server."""

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence

from pagoda.commands.compare import (
    NOT_SHOWN,
    Live,
    Name,
    as_is,
    changed_paths,
    live_children,
    planned,
)
from pagoda.commands.documents import (
    InputError,
    is_llmdeployment,
    parse,
    read_documents,
)
from pagoda.commands.render import note_passed_over, plan_of, settings_of, to_yaml
from pagoda.render.autoscaler import facts_of
from pagoda.render.deployment import SURGE, RollingUpdate
from pagoda.render.effective import spec_hash
from pagoda.render.objects import Object
from pagoda.render.plan import Facts, Plan
from pagoda.render.template import controller_revision_name


def run(args: argparse.Namespace) -> int:
    """Print the differences; 0: none, 1: some, 2: a file cannot be used."""
    try:
        olds = read_documents(args.before)
        differs, is_empty = False, True
        for obj in read_documents(args.file):
            if not is_llmdeployment(obj):
                note_passed_over(obj)
                continue
            is_empty = False
            differs |= _compare(obj, olds, args)
        if is_empty:
            raise InputError(f"{args.file}: no LLMDeployment in it")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return int(differs)


def _compare(obj: Object, olds: Sequence[Object], args: argparse.Namespace) -> bool:
    """Print what changes for one LLMDeployment; tells whether anything does."""
    owner, spec = parse(obj, args.namespace)
    live = live_children(olds, owner.namespace, owner.name)
    if live is not None:
        mine = obj | {"metadata": obj["metadata"] | _identity(live)}
        pinned = live.objects.get((NOT_SHOWN, controller_revision_name(owner, spec_hash(spec))))
        facts = Facts(
            settings_of(args),
            pinned,
            live.deployment(),
            _rolling(live),
            _holds_last(live),
            scaling=facts_of(live.first("HorizontalPodAutoscaler")),
        )
        plan = plan_of(mine, args, facts)
        after = planned(plan)
        before = as_is(live, after)
    else:
        plan = plan_of(obj, args, Facts(settings_of(args), None, None))
        after, before = planned(plan), _rendered(olds, owner.namespace, owner.name, args)
    differs = _print_differences(before, after)
    _print_summary(before, after, owner.name)
    if plan.choice.available:
        fresh = plan_of(obj, args, Facts(settings_of(args), None, None))
        _print_offer(plan, fresh)
    return differs


def _identity(live: Live) -> Object:
    return {"uid": live.uid, "generation": live.last_revision + 1}


def _rolling(live: Live) -> RollingUpdate:
    """Keep the strategy of a roll-out that is under way."""
    deployment = live.deployment() or {"spec": {}}
    rolling = deployment["spec"].get("strategy", {}).get("rollingUpdate")
    return RollingUpdate(rolling["maxSurge"], rolling["maxUnavailable"]) if rolling else SURGE


def _holds_last(live: Live) -> bool:
    """Tell whether this cluster's operator may hold a drain up, which one of namespaces cannot."""
    deployment = live.deployment()
    if deployment is None or deployment["spec"].get("replicas", 1) > 1:
        return True
    budgets = (obj for (kind, _), obj in live.objects.items() if kind == "PodDisruptionBudget")
    return all("minAvailable" in budget["spec"] for budget in budgets)


def _rendered(
    olds: Sequence[Object], namespace: str, name: str, args: argparse.Namespace
) -> dict[Name, Object]:
    for old in olds:
        if is_llmdeployment(old) and old.get("metadata", {}).get("name") == name:
            owner, _ = parse(old, args.namespace)
            if owner.namespace == namespace:
                return planned(plan_of(old, args, Facts(settings_of(args), None, None)))
    return {}


def _print_differences(before: Mapping[Name, Object], after: Mapping[Name, Object]) -> bool:
    differs = False
    for name in {**before, **after}:
        if name[0] == NOT_SHOWN:
            continue
        old, new = before.get(name), after.get(name)
        title = "/".join(name)
        lines = difflib.unified_diff(
            to_yaml(old).splitlines() if old else [],
            to_yaml(_like(new, old)).splitlines() if new else [],
            f"{title} (before)" if old else "/dev/null",
            f"{title} (after)" if new else "/dev/null",
            lineterm="",
        )
        for line in lines:
            differs = True
            print(line)
    return differs


def _like(new: Object, old: Object | None) -> Object:
    """Order keys as in `old`: a template that was kept by a cluster has lost its order."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        if isinstance(new, list) and isinstance(old, list):
            return [_like(item, old[i] if i < len(old) else None) for i, item in enumerate(new)]
        return new
    keys = [key for key in old if key in new] + [key for key in new if key not in old]
    return {key: _like(new[key], old.get(key)) for key in keys}


def _print_summary(before: Mapping[Name, Object], after: Mapping[Name, Object], owner: str) -> None:
    name = "Deployment", owner
    if name not in before or name not in after:
        gone = name in before
        print("Pods restart: no, they are " + ("removed" if gone else "started for the first time"))
        return
    old, new = (side[name]["spec"]["template"] for side in (before, after))
    changed = list(changed_paths(old, new))
    if not changed:
        print("Pods restart: no")
        return
    print(f"Pods restart: yes, changed: {', '.join(changed)}")


def _print_offer(plan: Plan, fresh: Plan) -> None:
    """Say that the operator would render other pods by now, and what that would change."""
    changed = ", ".join(changed_paths(plan.choice.template, fresh.choice.template))
    print(
        f"A newer rendering of the pods exists; spec.rollout.rendering: {plan.choice.available} takes "
        f"it and would change: {changed}"
    )
