"""Make a toy model: `python -m dev.toy_model --out DIR`.

A small Llama that knows nothing and says so: to any chat it answers ANSWER, any other text it
continues with LOOP. That makes a demo's answer recognisable without a download.

Its weights are written down, not trained. The last layer holds, for every token, what comes after
it; the words of the two texts are tokens of their own, so the last token alone says where in the
text it stands. Everything between is random and too faint to change the choice, but is computed
like any other model's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pagoda_runtime.model.loader import dummy_weights
from pagoda_runtime.model.spec import parse_spec
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

ANSWER = (
    "I am the toy model of Pagoda. I know this one sentence and say it whatever you ask, but the engine "
    "that serves me is real."
)
LOOP = (
    "\n\nPagoda turns one YAML into a served language model. This text comes from its toy, which "
    "repeats itself until someone stops it."
)
SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chunks(text: str, taken: set[str]) -> list[str]:
    """The words of a text with the space before them; several in one where a word alone is
    taken already.
    """
    result, chunk = [], ""
    for word in text.replace(" ", "\0 ").split("\0"):
        chunk += word
        if chunk not in taken:
            taken.add(chunk)
            result.append(chunk)
            chunk = ""
    assert not chunk, "the text must end with a word of its own"
    return result


_taken = {chr(byte) for byte in range(256)}  # A word of one letter would be that byte.
ANSWER_WORDS = chunks(ANSWER, _taken)
LOOP_WORDS = chunks(LOOP, _taken)

# Token ids: the bytes, the words of both texts in order, the special tokens.
ANSWER_BEGIN = 256
LOOP_BEGIN = ANSWER_BEGIN + len(ANSWER_WORDS)
END = LOOP_BEGIN + len(LOOP_WORDS)
ASSISTANT = END + SPECIAL.index("<|assistant|>")
VOCAB_SIZE = END + len(SPECIAL)

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": END,
}
README = """\
A toy made by Pagoda's dev/toy_model.py. Its weights were written by a program, not learned from data.
It recites two texts and knows nothing.
"""


def main(argv: list[str] | None = None) -> int:
    """Write the model directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="directory to write, made if missing"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights that do not matter")
    arguments = parser.parse_args(argv)
    write(arguments.out, weights_for(successor, arguments.seed))
    print(f"toy model in {arguments.out}")
    return 0


def successor(token: int) -> int:
    """What the toy says after a token."""
    if token == ASSISTANT:
        return ANSWER_BEGIN
    if ANSWER_BEGIN <= token < END:
        following = token + 1
        # The answer ends the sequence; the other text starts again.
        return {LOOP_BEGIN: END, END: LOOP_BEGIN}.get(following, following)
    return LOOP_BEGIN


def weights_for(successor: Callable[[int], int], seed: int) -> dict[str, Tensor]:
    """Weights of CONFIG's model that let `successor(t)` follow every token t with near
    certainty.
    """
    weights = dummy_weights(parse_spec(CONFIG), torch.float32, seed)
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.mul_(0.01)
    # Random directions are nearly orthogonal, so a row of the head answers to its own token only.
    # Tokens with the same successor share a direction.
    directions = torch.randn((VOCAB_SIZE, CONFIG["hidden_size"]), generator=_generator(seed))
    head = torch.zeros_like(weights["lm_head.weight"])
    for token in range(VOCAB_SIZE):
        following = successor(token)
        weights["model.embed_tokens.weight"][token] = head[following] = directions[following]
    weights["lm_head.weight"] = head
    return weights


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write(out: Path, weights: dict[str, Tensor]) -> None:
    """The directory in Hugging Face layout."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors")
    byte_tokenizer().save(str(out / "tokenizer.json"))
    files = {
        "config.json": CONFIG,
        "generation_config.json": {"do_sample": False, "eos_token_id": END},
        "tokenizer_config.json": {"eos_token": SPECIAL[0], "chat_template": TEMPLATE},
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    (out / "README.md").write_text(README)
    for file in out.iterdir():
        file.chmod(0o644)  # safetensors makes files only their owner can read


def byte_tokenizer() -> Tokenizer:
    """A tokenizer that reads text as bytes, token id = byte. The words above are only ever
    written.
    """
    alphabet = byte_alphabet()
    words = [
        "".join(alphabet[byte] for byte in word.encode()) for word in ANSWER_WORDS + LOOP_WORDS
    ]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *words])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))  # Without merges nothing joins bytes.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    assert tokenizer.token_to_id(SPECIAL[0]) == END
    return tokenizer


def byte_alphabet() -> list[str]:
    """The printable character that byte-level tokenizers write for each byte: itself, or one
    from 256 up.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


if __name__ == "__main__":
    sys.exit(main())
