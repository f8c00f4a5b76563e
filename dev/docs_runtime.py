"""The reference of the runtime's API, made from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pagoda_runtime.server.api.request import Body
from pagoda_runtime.server.api.schema import ERRORS, OPERATIONS, document

_INT64 = 2**63 - 1
_INT32 = 2**31 - 1


def runtime_api() -> str:
    """Write a table of fields for each endpoint's request and answer, and one of all errors."""
    schemas = document("")["components"]["schemas"]
    lines = [
        "# The runtime's API, field by field",
        "",
        "How the endpoints behave: [api.md](../api.md). The same for programs: `GET /openapi.json`.",
        "What a request may leave out it may also set to null. Types are explained where they come",
        "first.",
        "",
        "## Errors",
        "",
        "| status | when |",
        "|---|---|",
        *(f"| {status} | {text} |" for status, text in ERRORS.items()),
    ]
    shown: set[str] = set()
    for operation in OPERATIONS:
        lines += ["", f"## {operation.method.upper()} {operation.path}", "", operation.summary]
        if operation.request is not None:
            lines += ["", "### Request", ""]
            lines += _tables(operation.request.__name__, schemas, shown, request=True)
            lines += _refused(operation.request)
        lines += ["", "### Answer", "", *_tables(operation.response.__name__, schemas, shown)]
        if operation.stream not in (None, operation.response):
            assert operation.stream is not None
            lines += ["", "### Event of a stream", ""]
            lines += _tables(operation.stream.__name__, schemas, shown)
    return "\n".join(lines) + "\n"


def _tables(
    name: str, schemas: dict[str, Any], shown: set[str], *, request: bool = False
) -> Iterator[str]:
    """A type's table, and after it those of the types in its fields that were not shown yet."""
    shown.add(name)
    schema = schemas[name]
    yield from ("| field | type | what it is |", "|---|---|---|")
    for field, node in schema["properties"].items():
        needed = " **Required.**" if request and field in schema.get("required", ()) else ""
        text = f"{node.get('description', '')}{needed}".strip().replace("|", "\\|")
        yield f"| `{field}` | {_type(node, schemas)} | {text} |".replace("|  |", "| |")
    for inner in dict.fromkeys(_named(schema["properties"])):
        if inner not in shown and "properties" in schemas[inner]:
            about = " ".join(schemas[inner].get("description", "").split())
            yield from ("", f"`{inner}`: {about}", "")
            yield from _tables(inner, schemas, shown, request=request)


def _refused(request: type[Any]) -> Iterator[str]:
    assert issubclass(request, Body)
    if names := ", ".join(f"`{name}`" for name in request.refused):
        yield from ("", f"Not supported, refused where they ask for something: {names}.")


def _named(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if (reference := node.get("$ref")) is not None:
            yield reference.rsplit("/", 1)[1]
        for value in node.values():
            yield from _named(value)
    elif isinstance(node, list):
        for value in node:
            yield from _named(value)


def _type(node: dict[str, Any], schemas: dict[str, Any]) -> str:
    if "anyOf" in node:
        kinds = [_type(kind, schemas) for kind in node["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        return _type(schemas[name], schemas) if "enum" in schemas[name] else f"`{name}`"
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"] if value is not None)
    kind = node.get("type")
    if kind == "array":
        items = node.get("items", {})
        return f"list of {_type(items, schemas)}" if items else "list"
    return f"{kind}{_range(node)}" if kind in ("integer", "number") else str(kind)


def _range(node: dict[str, Any]) -> str:
    low = node.get("minimum", node.get("exclusiveMinimum"))
    high = node.get("maximum")
    low_text = "" if low in (None, -_INT64 - 1) else f"{low:g}"
    high_text = "" if high in (None, _INT64, _INT32) else f"{high:g}"
    if not (low_text or high_text):
        return ""
    above = "above " if "exclusiveMinimum" in node else ""
    return f", {above}{low_text} to {high_text}" if high_text else f", from {above}{low_text}"
