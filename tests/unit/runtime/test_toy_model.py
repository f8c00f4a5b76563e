"""The toy says its texts, whatever it is asked."""

from pathlib import Path
from typing import Any

import pytest
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.build import build_engine
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.server.text import TextModel

from dev import toy_model


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy")
    assert toy_model.main(["--out", str(path)]) == 0
    return path


def answer(toy: Path, text: TextModel, prompt: str, **options: Any) -> str:
    core = build_engine(EngineConfig(str(toy)))[0]
    params = SamplingParams(
        **({"max_tokens": 60, "temperature": 1.0, "stop_token_ids": text.eos_token_ids} | options)
    )
    core.add(Request("x", text.encode(prompt, add_special_tokens=False), params))
    ids = []
    while core.has_work:
        ids += [token for delta in core.step()[0] for token in delta.token_ids]
    return text.tokenizer.decode(ids)


@pytest.mark.parametrize(
    "messages",
    [
        [("user", "hi")],
        [
            ("system", "Be brief."),
            ("user", "Käse? 🧀"),
            ("assistant", toy_model.ANSWER),
            ("user", "And?"),
        ],
        [("user", "lorem ipsum " * 120)],
        [("user", "")],
    ],
)
def test_to_any_chat_it_gives_its_answer(toy: Path, messages: list[tuple[str, str]]) -> None:
    text = TextModel(toy)
    prompt = text.render_chat([{"role": role, "content": content} for role, content in messages])
    assert answer(toy, text, prompt) == toy_model.ANSWER
    assert answer(toy, text, prompt, stop_token_ids=()).startswith(
        toy_model.ANSWER + toy_model.LOOP
    )


@pytest.mark.parametrize("prompt", ["Once upon a time", "x", "I am the toy"])
def test_any_other_text_it_continues_with_the_loop(toy: Path, prompt: str) -> None:
    assert (toy_model.LOOP * 9).startswith(answer(toy, TextModel(toy), prompt))


def test_it_reads_bytes(toy: Path) -> None:
    assert TextModel(toy).encode("ab ü\n", add_special_tokens=True) == list("ab ü\n".encode())


def test_it_is_small_and_everyone_can_read_it(toy: Path) -> None:
    assert sum(file.stat().st_size for file in toy.iterdir()) < 5e6
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in toy.iterdir())
