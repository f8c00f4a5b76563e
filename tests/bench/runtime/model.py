"""The models: random weights of a known shape, once as safetensors and once as GGUF.

What a model says does not change how long it takes, so nothing is downloaded.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pagoda_runtime.model.loader import dummy_weights
from pagoda_runtime.model.spec import DecoderSpec, parse_spec
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dev.cluster.build import cache_folder
from dev.once import made_once
from tests.bench import shapes
from tests.bench.runtime import llama_cpp
from tests.bench.runtime.vocabulary import END, Vocabulary


@dataclass(frozen=True)
class Model:
    """One shape and its files."""

    name: str
    folder: Path  # Hugging Face layout
    gguf: Path
    spec: DecoderSpec
    vocabulary: Vocabulary

    @property
    def layer_parameters(self) -> int:
        """Parameters in the matrices of all layers."""
        shapes = self.spec.tensor_shapes().items()
        return sum(rows * rest[0] for name, (rows, *rest) in shapes if rest and ".layers." in name)

    @property
    def head_parameters(self) -> int:
        """Parameters of the head, which is the embedding too."""
        return self.spec.vocab_size * self.spec.hidden_size

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values per token, in bfloat16."""
        return 2 * self.spec.num_layers * self.spec.kv_size * 2


def model(name: str) -> Model:
    """The model, written into the cache folder first if it is missing."""
    config = shapes.config(name)
    vocabulary = Vocabulary(config["vocab_size"])
    sources = [
        Path(__file__),
        *(Path(__file__).with_name(f"{n}.py") for n in ("vocabulary", "gguf_file")),
    ]
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]

    def write(folder: Path) -> None:
        folder.mkdir()
        weights = dummy_weights(parse_spec(config), torch.bfloat16, seed=0)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        _tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
        tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        llama_cpp.use_gguf()
        from tests.bench.runtime import gguf_file  # its library is there only now

        gguf_file.write(folder / "model.gguf", config, weights, vocabulary)

    folder = made_once(cache_folder() / "models" / f"bench-{name}-{key}", write)
    return Model(name, folder, folder / "model.gguf", parse_spec(config), vocabulary)


def _tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    ids = {token: i for i, token in enumerate(vocabulary.tokens[:-1])}
    tokenizer = Tokenizer(models.BPE(ids, merges=vocabulary.merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer
