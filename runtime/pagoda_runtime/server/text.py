"""The model directory's text side: tokenizer, chat template, end-of-sequence ids, default
sampling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from pagoda_runtime.config import ConfigError


class ChatTemplateError(ValueError):
    """The template refused the messages; the message is for the client."""


@dataclass(frozen=True)
class SamplingDefaults:
    """What a request gets that does not say."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


class TextModel:
    """Everything about the model that deals in text. Errors in its files are ConfigErrors at
    start.
    """

    def __init__(self, model_dir: Path) -> None:
        path = model_dir / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(
                f"{path} is missing; models with only a sentencepiece tokenizer are not supported"
            )
        try:
            self.tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises nothing more specific.
            raise ConfigError(f"{path} is not a tokenizer: {error}") from error
        config = _read_json(model_dir / "tokenizer_config.json")
        generation = _read_json(model_dir / "generation_config.json")
        self._special = {
            name: _token(config.get(name)) for name in ("bos_token", "eos_token", "pad_token")
        }
        source = _template_source(model_dir, config)
        self._template = _compile(source)
        # OpenAI's newer name for the system role; few templates have it.
        self._knows_developer = "developer" in (source or "")
        self.eos_token_ids = self._eos(generation, _read_json(model_dir / "config.json"))
        self.defaults = _defaults(generation)
        self.matryoshka_dimensions = _matryoshka(_read_json(model_dir / "config.json"))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Text to token ids."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for these messages: up to where the assistant's turn begins, or, to continue it,
        up to the end of the last message's content. `variables` are more names for the template.
        """
        if self._template is None:
            raise ChatTemplateError("this model has no chat template: use /v1/completions")
        if not self._knows_developer:
            messages = [
                {**m, "role": "system"} if m["role"] == "developer" else m for m in messages
            ]
        names = {
            **(variables or {}),
            **self._special,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
        }
        try:
            prompt = self._template.render(names)
        except Exception as error:  # A program that came with the model: it may raise anything.
            raise ChatTemplateError(
                f"the model's chat template refused the messages: {error}"
            ) from error
        return _up_to_content(prompt, messages) if continue_final_message else prompt

    def _eos(self, generation: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, ...]:
        ids = generation.get("eos_token_id", config.get("eos_token_id"))
        if ids is None:
            ids = self.tokenizer.token_to_id(self._special["eos_token"])
        if ids is None:
            return ()
        return tuple(ids) if isinstance(ids, list) else (ids,)


def _up_to_content(prompt: str, messages: Sequence[Mapping[str, Any]]) -> str:
    # Templates add an end of turn after the content, and many strip spaces around it.
    content = str(messages[-1]["content"]).strip()
    at = prompt.rfind(content)
    if not content or at < 0:
        raise ChatTemplateError("the last message has no content that could be continued")
    return prompt[: at + len(content)]


def _defaults(generation: Mapping[str, Any]) -> SamplingDefaults:
    # Files that say nothing mean OpenAI's defaults; `do_sample: false`, spelled out, means greedy.
    if generation.get("do_sample") is False:
        return SamplingDefaults(temperature=0.0)
    return SamplingDefaults(
        temperature=float(generation.get("temperature", 1.0)),
        top_p=float(generation.get("top_p", 1.0)),
        top_k=int(generation.get("top_k", 0)),
    )


def _matryoshka(config: Mapping[str, Any]) -> Sequence[int]:
    """The lengths to which the model's embeddings may be cut, as its config.json says it."""
    if (listed := config.get("matryoshka_dimensions")) is not None:
        return [int(length) for length in listed]
    return range(1, int(config["hidden_size"]) + 1) if config.get("is_matryoshka") else ()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    return content


def _token(value: Any) -> str:
    """A special token of tokenizer_config.json: a string, or an object with `content`."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _template_source(model_dir: Path, config: Mapping[str, Any]) -> str | None:
    path = model_dir / "chat_template.jinja"
    if path.is_file():
        return path.read_text()
    template = config.get("chat_template")
    if isinstance(template, list):  # Several, by name.
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _compile(source: str | None) -> Template | None:
    if source is None:
        return None
    # Sandboxed: the template comes with the weights, not from us. The options are those templates
    # are written for (transformers').
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ConfigError(f"the chat template is not valid: {error}") from error


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
