"""The same weights as a GGUF file, by llama.cpp's own writer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]  # see llama_cpp.use_gguf
import torch
from torch import Tensor

from tests.bench.runtime.vocabulary import Vocabulary


def write(
    path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], vocabulary: Vocabulary
) -> None:
    """Write matrices in bfloat16, as they are, and norms in float32, as llama.cpp wants them."""
    writer = gguf.GGUFWriter(path, config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    _add_tokenizer(writer, vocabulary)
    architecture = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(
        architecture[config["model_type"]], config["num_hidden_layers"]
    )
    for name, weight in weights.items():
        if config["model_type"] == "llama":
            weight = _rotary_pairs_together(name, weight, config)
        new_name = names.get_name(name, try_suffixes=(".weight",))
        if weight.dim() == 1:
            writer.add_tensor(new_name, weight.float().numpy())
        else:
            # numpy knows no bfloat16: the writer takes the bytes and is told what they are.
            data = weight.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(new_name, data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    size = len(vocabulary.tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (size - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    writer.add_eos_token_id(size - 1)
    writer.add_add_bos_token(False)


def _rotary_pairs_together(name: str, weight: Tensor, config: Mapping[str, Any]) -> Tensor:
    """llama.cpp rotates neighbours in its Llamas, Hugging Face's layout the halves of a head."""
    heads = {
        "q_proj.weight": config["num_attention_heads"],
        "k_proj.weight": config["num_key_value_heads"],
    }.get(".".join(name.split(".")[-2:]))
    if heads is None:
        return weight
    halves = weight.reshape(heads, 2, config["head_dim"] // 2, -1)
    return halves.transpose(1, 2).reshape(weight.shape)
