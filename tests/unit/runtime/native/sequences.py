"""Small random models, and sequences that are fed to them chunk by chunk."""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pagoda_runtime.attention.base import KVLayout, SequenceChunk
from pagoda_runtime.attention.paged_torch import PagedTorchAttention
from pagoda_runtime.model.decoder import Decoder
from pagoda_runtime.model.loader import dummy_weights
from pagoda_runtime.model.spec import DecoderSpec, parse_spec
from pagoda_runtime.native.library import ROW, Batch, InstructionSet, Model, Result
from pagoda_runtime.native.model import create_model, load_weights

VOCAB = 203
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 72,
    "intermediate_size": 90,
    "num_hidden_layers": 2,
    "max_position_embeddings": 4096,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Odd sizes on purpose: nothing is a whole number of vectors or panels.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 24,
    },
    "llama-biases-tied-llama3-rope": {
        "architectures": ["LlamaForCausalLM"],
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 10,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "rope_parameters": LLAMA3_ROPE,
    },
    "llama-135m-heads-linear-rope": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 144,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0},
    },
    "mistral-window": {
        "architectures": ["MistralForCausalLM"],
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "sliding_window": 24,
    },
    "qwen2-mixed-windows": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 96,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "use_sliding_window": True,
        "sliding_window": 50,
        "layer_types": ["full_attention", "sliding_attention"],
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 80,
        "tie_word_embeddings": True,
    },
}

Weights = dict[str, torch.Tensor]


def make_spec(name: str) -> DecoderSpec:
    return parse_spec(COMMON | CONFIGS[name])


def make_weights(spec: DecoderSpec, seed: int = 0) -> Weights:
    """bfloat16; norms and biases are random too, for ones and zeros would hide a mistake."""
    weights = dummy_weights(spec, torch.bfloat16, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, weight in weights.items():
        if name.endswith(("norm.weight", ".bias")):
            weight += (torch.randn(weight.shape, generator=generator) * 0.2).to(weight.dtype)
    return weights


def native_model(
    library: ctypes.CDLL,
    spec: DecoderSpec,
    weights: Mapping[str, torch.Tensor],
    *,
    block_size: int = 32,
    num_blocks: int = 128,
    max_tokens: int = 1024,
    logits_rows: int = 16,
    threads: int = 2,
    int8: bool = False,
    instruction_set: InstructionSet = InstructionSet.NONE,
) -> Model:
    model = create_model(
        library,
        spec,
        block_size=block_size,
        num_blocks=num_blocks,
        max_tokens=max_tokens,
        logits_rows=logits_rows,
        threads=threads,
        int8=int8,
        instruction_set=instruction_set,
    )
    load_weights(model, _arrays(weights))
    return model


def _arrays(weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for name, tensor in weights.items():
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.view(torch.uint16)
        yield name, tensor.numpy()


@dataclass
class Stream:
    """Tokens, of which the first `prompt` are no answer, the blocks they live in, how many are
    computed, and how the next one is chosen: fields of ROW, logit_bias, or the defaults.
    """

    tokens: list[int]
    blocks: list[int]
    computed: int = 0
    prompt: int = 0
    params: dict[str, Any] = field(default_factory=dict)


def random_tokens(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(VOCAB, size=count).tolist()


def step(model: Model, chunks: Sequence[tuple[Stream, int]]) -> Result:
    """Compute the next tokens of some streams; a row of logits, and a token, for each."""
    width = max(len(stream.blocks) for stream, _ in chunks)
    tables = np.zeros((len(chunks), width), np.int32)
    rows = np.zeros(len(chunks), ROW)
    rows["top_logprobs"] = rows["scored"] = -1
    rows["top_p"] = rows["repetition_penalty"] = 1
    tokens: list[int] = []
    history: list[int] = []
    biases: list[tuple[int, float]] = []
    for i, (stream, count) in enumerate(chunks):
        tables[i, : len(stream.blocks)] = stream.blocks
        tokens += stream.tokens[stream.computed : stream.computed + count]
        rows[i]["row"] = len(tokens) - 1
        rows[i]["position"] = len(stream.tokens)
        for name, value in stream.params.items():
            if name == "logit_bias":
                rows[i]["bias_begin"], rows[i]["bias_end"] = len(biases), len(biases) + len(value)
                biases += value
            else:
                rows[i][name] = value % 2**64 if name == "seed" else value
        if any("penalty" in name for name in stream.params):
            begin = len(history)
            history += stream.tokens
            rows[i]["prompt_begin"], rows[i]["answer_begin"] = begin, begin + stream.prompt
            rows[i]["answer_end"] = len(history)
    batch = Batch(
        starts=np.array([stream.computed for stream, _ in chunks], np.int32),
        lengths=np.array([count for _, count in chunks], np.int32),
        tokens=np.array(tokens, np.int32),
        block_tables=tables,
        rows=rows,
        history=np.array(history, np.int32),
        bias_tokens=np.array([token for token, _ in biases], np.int32),
        biases=np.array([bias for _, bias in biases], np.float32),
        pools=np.empty((0, 2), np.int32),
        sums=np.empty((0, 0)),
    )
    result = model.step(batch, want_logits=True)
    for stream, count in chunks:
        stream.computed += count
    return result


def logits_of(result: Result) -> npt.NDArray[np.float32]:
    assert result.logits is not None
    return result.logits


def torch_logits(
    spec: DecoderSpec, weights: Weights, tokens: Sequence[int], dtype: torch.dtype
) -> npt.NDArray[np.float32]:
    """Logits of every position from the plain torch execution, [tokens, vocab]."""
    decoder = Decoder(spec, {name: w.to(dtype) for name, w in weights.items()}, len(tokens))
    blocks = -(-len(tokens) // 32)
    attention = PagedTorchAttention(spec, KVLayout(blocks, 32, dtype))
    attention.plan([SequenceChunk(0, len(tokens), list(range(blocks)))])
    with torch.inference_mode():
        hidden = decoder.forward(torch.tensor(tokens), torch.arange(len(tokens)), attention.attend)
        logits: npt.NDArray[np.float32] = decoder.logits(hidden).numpy()
    return logits
