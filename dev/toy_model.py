"""Make a toy model: `python -m dev.toy_model --out DIR`.

A Llama of half a million parameters that reads bytes and has learned two texts by heart, in
seconds, on a CPU. It knows nothing and says so: to any chat it answers ANSWER, any other text it
continues with LOOP. That makes a demo's answer recognisable without downloading anything. The
weights are trained here, with the runtime's own decoder, on nothing but the texts in this file.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from pagoda_runtime.model.decoder import Decoder
from pagoda_runtime.model.loader import dummy_weights
from pagoda_runtime.model.spec import DecoderSpec, parse_spec
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

ANSWER = (
    "I am a toy model of Pagoda. I learned this one sentence by heart, so I say it whatever you ask; "
    "but the engine that serves me is real."
)
LOOP = (
    "\n\nPagoda turns one YAML into a served language model. This text comes from its toy model, "
    "which repeats itself until it is stopped."
)
SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
END, SYSTEM, USER, ASSISTANT = range(256, 260)
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "_comment": "A toy made by dev/toy_model.py: it recites two texts and knows nothing.",
    "vocab_size": 260,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": END,
}
WORDS = """
    a an the is are was what who why how when where can could you I we it this that and or not of to
    in for with tell me about please hello hi thanks write story code cluster pod node model token
    Kubernetes Pagoda GPU CPU cat dog tree river once upon time list three sum two plus five poem name
    your explain like ? ! . ,
"""
IGNORE = -100  # cross_entropy's mark for positions that teach nothing

# (sequences, tokens in each) of a step, taken in turn: the long ones teach it not to lose the thread.
SHAPES = ((8, 256), (8, 256), (2, 1024))
STEPS, GOOD_LOSS = 240, 0.02


def main(argv: list[str] | None = None) -> int:
    """Train, check and write the model; 1 if it did not learn its texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="directory to write, made if it is missing"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    begun = time.monotonic()
    spec = parse_spec(CONFIG)
    # One thread: the same sums in the same order, so the same weights, on every machine of a kind.
    torch.set_num_threads(1)
    weights, loss = train(spec, arguments.seed)
    if loss > GOOD_LOSS:
        print(f"the toy did not learn its texts in {STEPS} steps: loss {loss:.3f}", file=sys.stderr)
        return 1
    write(arguments.out, weights)
    print(f"toy model in {arguments.out}: {time.monotonic() - begun:.0f} s, loss {loss:.4f}")
    return 0


def train(spec: DecoderSpec, seed: int) -> tuple[dict[str, Tensor], float]:
    """Weights, and their loss on examples never seen before."""
    rng = random.Random(seed)
    weights = dummy_weights(spec, torch.float32, seed)
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(weights.values(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.01)
    # A short run up, then straight down to nothing.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 20, 1.0 - step / STEPS)
    )
    for step in range(STEPS):
        optimizer.zero_grad()
        batch_loss(spec, weights, rng, *SHAPES[step % len(SHAPES)]).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return weights, max(batch_loss(spec, weights, rng, *shape).item() for shape in SHAPES)


def batch_loss(
    spec: DecoderSpec, weights: dict[str, Tensor], rng: random.Random, batch: int, length: int
) -> Tensor:
    """Mean cross entropy over the recited tokens of a batch of fresh examples."""
    pairs = [example(rng, length) for _ in range(batch)]
    tokens = torch.tensor([tokens for tokens, _ in pairs])  # [batch, length + 1]
    targets = torch.tensor([targets for _, targets in pairs])
    decoder = Decoder(spec, weights, length)
    positions = torch.arange(length).repeat(batch)
    hidden = decoder.forward(tokens[:, :-1].flatten(), positions, DenseAttention(batch))
    return F.cross_entropy(decoder.logits(hidden), targets[:, 1:].flatten(), ignore_index=IGNORE)


class DenseAttention:
    """Causal attention inside each of `batch` sequences of equal length, without a cache."""

    def __init__(self, batch: int) -> None:
        self._batch = batch

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Shapes as in `pagoda_runtime.model.decoder.Attend`."""
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        q, k, v = (x.view(self._batch, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.transpose(1, 2).flatten(0, 1)


def example(rng: random.Random, length: int) -> tuple[list[int], list[int]]:
    """length + 1 tokens, and the same with IGNORE wherever the model is not asked to recite."""
    tokens: list[int] = []
    targets: list[int] = []

    def read(ids: list[int]) -> None:
        tokens.extend(ids)
        targets.extend([IGNORE] * len(ids))

    def recite(ids: list[int]) -> None:
        tokens.extend(ids)
        targets.extend(ids)

    if rng.random() < 0.7:
        if rng.random() < 0.3:
            read([SYSTEM, *babble(rng, length // 4), END])
        for _ in range(rng.choice((1, 1, 2))):
            read([USER, *babble(rng, length // 3), END, ASSISTANT])
            recite([*ANSWER.encode(), END])
    else:
        read(babble(rng, length // 2))
    while len(tokens) <= length:  # Where nobody stops it, it goes on with the other text.
        recite(list(LOOP.encode()))
    return tokens[: length + 1], targets[: length + 1]


def babble(rng: random.Random, most: int) -> list[int]:
    """1 to `most` bytes of nonsense, which stand for whatever a user may write."""
    length = rng.randint(1, most)
    if rng.random() < 0.2:
        return [rng.randrange(256) for _ in range(length)]
    # Now and then it quotes the model, as the history of a chat does.
    text = " ".join(rng.choices(WORDS.split(), k=length))
    if rng.random() < 0.3:
        text = ANSWER[rng.randrange(50) : rng.randrange(50, len(ANSWER))] + text
    return list((text.capitalize() if rng.random() < 0.5 else text).encode()[:length])


def write(out: Path, weights: dict[str, Tensor]) -> None:
    """The directory in Hugging Face layout."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: weight.detach() for name, weight in weights.items()}, out / "model.safetensors"
    )
    byte_tokenizer().save(str(out / "tokenizer.json"))
    files = {
        "config.json": CONFIG,
        "generation_config.json": {"do_sample": False, "eos_token_id": END},
        "tokenizer_config.json": {"eos_token": SPECIAL[0], "chat_template": TEMPLATE},
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    for file in out.iterdir():
        file.chmod(0o644)  # safetensors makes files only their owner can read


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose token ids are the bytes of the text, then the special tokens."""
    tokenizer = Tokenizer(models.BPE(byte_alphabet(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level tokenizers write for each byte: itself, or one
    from 256 up.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return {chr(byte if byte in printable else next(others)): byte for byte in range(256)}


if __name__ == "__main__":
    sys.exit(main())
