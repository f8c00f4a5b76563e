"""Reading files of YAML documents, and the LLMDeployments in them, strictly."""

import difflib
import sys
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pagoda.api import API_VERSION, KIND
from pagoda.api.v1alpha1 import LLMDeploymentSpec
from pagoda.render.objects import Object, Owner

UNKNOWN_UID = "00000000-0000-0000-0000-000000000000"  # the API server gives one


class InputError(Exception):
    """A file cannot be used; the text says where and why."""


def read_documents(file: str) -> list[Object]:
    """Read all objects of a file, `-` for stdin; a List is taken apart.

    Raises:
        InputError: there is no such file, or it is not YAML of Kubernetes objects.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        documents = [d for d in yaml.load_all(text, Loader=_LOADER) if d is not None]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not YAML: {error}") from error
    found: list[Object] = []
    for document in documents:
        is_list = isinstance(document, dict) and document.get("kind") == "List"
        found += (document.get("items") or []) if is_list else [document]
    for obj in found:
        if not isinstance(obj, dict) or not isinstance(obj.get("metadata", {}), dict):
            raise InputError(f"{file}: a document is not a Kubernetes object")
    return found


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_llmdeployment(obj: Object) -> bool:
    """Tell whether it is one, of any version."""
    return obj.get("kind") == KIND


def parse(obj: Object, namespace: str) -> tuple[Owner, LLMDeploymentSpec]:
    """Check an LLMDeployment as strictly as is possible without the API server's CEL.

    Args:
        obj: the object.
        namespace: used when it names none.

    Raises:
        InputError: it is invalid; one line for each problem, with the path of the field.
    """
    metadata = obj.get("metadata", {})
    name = metadata.get("name")
    problems = []
    if obj.get("apiVersion") != API_VERSION:
        problems.append(f"apiVersion must be {API_VERSION}, not {obj.get('apiVersion')!r}")
    if not isinstance(name, str) or not name:
        problems.append("metadata.name is missing")
    known = {"apiVersion", "kind", "metadata", "spec", "status"}
    problems += [_unknown(key, known, "") for key in obj if key not in known]
    problems += list(_unknown_fields(obj.get("spec"), LLMDeploymentSpec, "spec"))
    try:
        spec = LLMDeploymentSpec.model_validate(obj.get("spec"), strict=True)
    except ValidationError as error:
        problems += [_explain(problem) for problem in error.errors()]
    if problems:
        raise InputError("\n".join(f"{name or '?'}: {problem}" for problem in problems))
    owner = Owner(
        namespace=metadata.get("namespace") or namespace,
        name=str(name),
        uid=metadata.get("uid") or UNKNOWN_UID,
        generation=metadata.get("generation") or 1,
    )
    return owner, spec


def _explain(problem: Any) -> str:
    path = "spec"
    for part in problem["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return f"{path}: {problem['msg']}"


def _unknown_fields(value: Any, model: type[BaseModel], path: str) -> list[str]:
    """Name the fields that the API does not have; the API server would drop or refuse them."""
    if not isinstance(value, dict):
        return []
    fields = {info.alias or name: info.annotation for name, info in model.model_fields.items()}
    problems = []
    for key, item in value.items():
        if key not in fields:
            problems.append(_unknown(str(key), set(fields), path))
        elif (inner := _model_of(fields[key])) is not None:
            items = enumerate(item) if isinstance(item, list) else [(None, item)]
            for index, part in items:
                place = f"{path}.{key}" + ("" if index is None else f"[{index}]")
                problems += _unknown_fields(part, inner, place)
    return problems


def _unknown(key: str, known: set[str], path: str) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{path}.{key}: unknown field{hint}".lstrip(".")


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Find the model within `Model | None` or `list[Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_of(part) for part in get_args(annotation))
    return next((model for model in found if model is not None), None)
