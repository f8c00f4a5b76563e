"""Writes the documentation that is generated from the code: `python -m dev.docs [--check]`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pagoda.api.conditions import REASONS
from pagoda.api.crd import custom_resource_definition

from dev.docs_runtime import runtime_api

DOCS = Path(__file__).parents[1] / "docs"
NOTE = "<!-- Generated from the code by `make generate`; do not edit. -->"


def api_reference() -> str:
    """Write one table of all fields of the spec and one of the status."""
    version = custom_resource_definition()["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    lines = [
        NOTE,
        "",
        "# LLMDeployment, `serving.pagoda.dev/v1alpha1`",
        "",
        "Short name `llmd`, category `llm`. `kubectl explain llmd.spec --recursive` shows the same.",
    ]
    for part in ("spec", "status"):
        lines += ["", f"## {part}", "", "| field | type | what it is |", "|---|---|---|"]
        for path, node, required in _fields(schema[part], ""):
            needed = " **Required.**" if required else ""
            limits = "".join(f" {rule['message']}." for rule in node.get(_RULES, ()))
            text = node["description"].replace("|", "\\|")
            lines.append(f"| `{path}` | {_type(node)} | {text}{needed}{limits} |")
    return "\n".join(lines) + "\n"


def troubleshooting() -> str:
    """Write what each reason means, which conditions it sets and what to do about it."""
    lines = [
        NOTE,
        "",
        "# Troubleshooting by reason",
        "",
        "`kubectl get llmd NAME -o wide` shows the reason, `kubectl describe llmd NAME` the message",
        "with what to do. A reason with Stalled needs a person; every other one passes by itself as",
        "soon as its cause is gone. How the operator finds causes: [status.md](status.md).",
        "",
        "Words in braces are filled in. WorkloadReady has the same reason as Ready, and is True only",
        "with `Ready`; of `ReplicasUnavailable` it names the cause.",
        "",
        "| reason | status | Ready | Reconciling | Stalled | ModelReady | message | what to do |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for reason in REASONS:
        # Otherwise whether a replica has loaded the model decides.
        model = "False" if reason.concerns_model else ""
        cells = [
            f"`{reason.name}`",
            reason.state,
            reason.ready,
            reason.reconciling,
            reason.stalled,
            model,
            reason.message.replace("|", "\\|"),
            reason.advice.replace("|", "\\|"),
        ]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


GENERATED = {
    DOCS / "reference" / "llmdeployment.md": api_reference,
    DOCS / "reference" / "runtime-api.md": lambda: f"{NOTE}\n\n{runtime_api()}",
    DOCS / "troubleshooting.md": troubleshooting,
}
_RULES = "x-kubernetes-validations"


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only fail if a file is out of date")
    check = parser.parse_args().check
    stale = [path for path, make in GENERATED.items() if _read(path) != make()]
    if check and stale:
        print(f"out of date, run `make generate`: {', '.join(map(str, stale))}", file=sys.stderr)
        return 1
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GENERATED[path]())
    return 0


def _fields(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    required = node.get("required", ())
    for name, sub in node.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield path, sub, name in required
        yield from _fields(sub, f"{path}.")
        if isinstance(items := sub.get("items"), dict):
            yield from _fields(items, f"{path}[].")


def _type(node: dict[str, Any]) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"])
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    return str(node["type"])


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
