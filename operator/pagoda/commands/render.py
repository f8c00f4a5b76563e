"""`pagoda render`: the objects that the operator would apply, without an API server."""

import argparse
import sys
from typing import Any

import yaml

from pagoda.commands.compare import planned
from pagoda.commands.documents import InputError, is_llmdeployment, parse, read_documents
from pagoda.render.effective import Settings, SpecError
from pagoda.render.objects import Object
from pagoda.render.plan import Facts, Plan, desired


def run(args: argparse.Namespace) -> int:
    """Print the objects; 1 if an LLMDeployment is invalid."""
    try:
        wanted: list[Object] = []
        for obj in read_documents(args.file):
            if is_llmdeployment(obj):
                plan = plan_of(obj, args, Facts(settings_of(args), None, None))
                wanted += planned(plan).values()
            else:
                note_passed_over(obj)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    if not wanted:
        print(f"{args.file}: no LLMDeployment in it", file=sys.stderr)
        return 1
    sys.stdout.write("---\n".join(map(to_yaml, wanted)))
    return 0


def plan_of(obj: Object, args: argparse.Namespace, facts: Facts) -> Plan:
    """Render one LLMDeployment.

    Raises:
        InputError: it is invalid.
    """
    owner, spec = parse(obj, args.namespace)
    try:
        return desired(owner, spec, facts)
    except SpecError as error:
        raise InputError(f"{owner.name}: {error}") from error


def settings_of(args: argparse.Namespace) -> Settings:
    """Take what the operator would be started with from the command line."""
    return Settings(
        images=dict(args.engine_image),
        fetch_image=args.fetch_image or Settings.fetch_image,
        hub_endpoint=args.hub_endpoint or Settings.hub_endpoint,
    )


def note_passed_over(obj: Object) -> None:
    """Say that an object of another kind is left out."""
    name = obj.get("metadata", {}).get("name", "?")
    print(f"passed over: {obj.get('kind', '?')} {name}", file=sys.stderr)


def to_yaml(value: Any) -> str:
    """Serialise an object in the order in which it was built."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return text


_BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_BASE):  # type: ignore[misc]
    """Writes shared parts out in full, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
