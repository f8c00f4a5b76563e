"""The text side of a model directory."""

import json
from pathlib import Path
from typing import Any

import pytest
from pagoda_runtime.config import ConfigError
from pagoda_runtime.server.text import ChatTemplateError, SamplingDefaults, TextModel

from dev.toy_model import END, TEMPLATE, byte_tokenizer

USER = [{"role": "user", "content": "hi"}]


def text_model(path: Path, **files: dict[str, Any]) -> TextModel:
    byte_tokenizer().save(str(path / "tokenizer.json"))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return TextModel(path)


def template(path: Path, source: str, **config: Any) -> TextModel:
    return text_model(path, tokenizer_config={"chat_template": source} | config)


def test_rendering(tmp_path: Path) -> None:
    assert template(tmp_path, TEMPLATE).render_chat(USER) == "<|user|>hi<|end|><|assistant|>"


def test_continuing_the_last_message(tmp_path: Path) -> None:
    model = template(tmp_path, TEMPLATE)
    chat = [*USER, {"role": "assistant", "content": " half a "}]
    assert model.render_chat(chat, continue_final_message=True) == (
        "<|user|>hi<|end|><|assistant|> half a"
    )
    assert model.render_chat(USER, add_generation_prompt=False) == "<|user|>hi<|end|>"
    for content in ("", " "):
        with pytest.raises(ChatTemplateError, match="no content"):
            model.render_chat([{"role": "user", "content": content}], continue_final_message=True)


def test_developers_are_system_unless_the_template_knows_them(tmp_path: Path) -> None:
    chat = [{"role": "developer", "content": "x"}]
    assert template(tmp_path, TEMPLATE).render_chat(chat) == "<|system|>x<|end|><|assistant|>"
    knows = template(tmp_path, "{% if messages[0].role == 'developer' %}yes{% endif %}")
    assert knows.render_chat(chat) == "yes"


def test_variables_are_the_templates_but_not_its_own_names(tmp_path: Path) -> None:
    model = template(tmp_path, "{{ enable_thinking }}{{ messages | length }}")
    assert model.render_chat(USER, variables={"enable_thinking": False, "messages": []}) == "False1"


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{{ messages[0].x.y }}", "{{ loop(1) }}"])
def test_whatever_a_template_raises_is_about_the_messages(tmp_path: Path, source: str) -> None:
    with pytest.raises(ChatTemplateError, match="refused the messages"):
        template(tmp_path, source).render_chat(USER)


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        ({}, []),
        ({"matryoshka_dimensions": [8, 16], "is_matryoshka": True}, [8, 16]),
        ({"is_matryoshka": True, "hidden_size": 3}, [1, 2, 3]),
    ],
)
def test_lengths_of_embeddings(tmp_path: Path, config: dict[str, Any], allowed: list[int]) -> None:
    assert list(text_model(tmp_path, config=config).matryoshka_dimensions) == allowed


def test_a_file_of_its_own_wins(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}file")
    model = template(tmp_path, "config", bos_token={"content": "<s>", "lstrip": False})
    assert model.render_chat(USER) == "<s>file"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    model = text_model(tmp_path, tokenizer_config={"chat_template": named})
    assert model.render_chat(USER) == "d"


def test_what_templates_of_published_models_use(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}\n"
        "    {% if loop.index0 == 1 %}{% break %}{% endif %}\n"
        "    {{ m | tojson }}\n"
        "{% endfor %}\n"
        "{{ strftime_now('%Y') | length }}"
    )
    rendered = template(tmp_path, source).render_chat([{"role": "user", "content": "<ü>"}] * 2)
    assert rendered == '    {"role": "user", "content": "<ü>"}\n4'


def test_a_template_can_refuse(tmp_path: Path) -> None:
    model = template(tmp_path, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        model.render_chat(USER)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
    ],
)
def test_a_template_cannot_reach_out(tmp_path: Path, source: str) -> None:
    with pytest.raises(ChatTemplateError):
        template(tmp_path, source).render_chat(USER)


def test_no_template(tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match="no chat template"):
        text_model(tmp_path).render_chat(USER)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer.json is missing"):
        TextModel(tmp_path)
    with pytest.raises(ConfigError, match="chat template is not valid"):
        template(tmp_path, "{% if %}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not a tokenizer"):
        TextModel(tmp_path)


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        ({"generation_config": {"eos_token_id": [3, 4]}, "config": {"eos_token_id": 5}}, (3, 4)),
        ({"config": {"eos_token_id": 5}}, (5,)),
        ({"tokenizer_config": {"eos_token": "<|end|>"}}, (END,)),
        ({}, ()),
    ],
)
def test_end_of_sequence(
    tmp_path: Path, files: dict[str, dict[str, Any]], eos: tuple[int, ...]
) -> None:
    assert text_model(tmp_path, **files).eos_token_ids == eos


@pytest.mark.parametrize(
    ("generation", "defaults"),
    [
        ({}, SamplingDefaults()),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20}, SamplingDefaults(0.6, 0.95, 20)),
        ({"do_sample": False, "temperature": 0.6}, SamplingDefaults(0.0)),
    ],
)
def test_sampling_defaults(
    tmp_path: Path, generation: dict[str, Any], defaults: SamplingDefaults
) -> None:
    assert text_model(tmp_path, generation_config=generation).defaults == defaults
