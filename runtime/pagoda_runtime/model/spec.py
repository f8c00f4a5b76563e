"""What a decoder looks like, read from config.json. No torch: the API process reads it too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pagoda_runtime.config import ConfigError

SUPPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

DType = Literal["float32", "bfloat16"]
DTYPE_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding. `linear` divides every frequency by factor, `llama3` only the
    slow ones.
    """

    theta: float
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder-only transformer: pre-norm, grouped-query attention with RoPE, gated MLP.

    windows has one entry per layer: how many positions a token attends to, itself included; None
    for all.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    qk_norm: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    tie_embeddings: bool
    max_position: int
    dtype: str
    rope: RopeSpec
    windows: tuple[int | None, ...]

    @property
    def largest_window(self) -> int | None:
        """The most positions a token attends to in any layer; None if one attends to all."""
        windows = [window for window in self.windows if window is not None]
        return max(windows) if len(windows) == self.num_layers else None

    @property
    def q_size(self) -> int:
        """Width of all query heads side by side."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads side by side."""
        return self.num_kv_heads * self.head_dim

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor a checkpoint of this decoder holds (Hugging Face
        names).
        """
        hidden, mlp = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, hidden)
        }
        for i in range(self.num_layers):
            linears = {
                "self_attn.q_proj": (self.q_size, hidden, self.qkv_bias),
                "self_attn.k_proj": (self.kv_size, hidden, self.qkv_bias),
                "self_attn.v_proj": (self.kv_size, hidden, self.qkv_bias),
                "self_attn.o_proj": (hidden, self.q_size, self.o_bias),
                "mlp.gate_proj": (mlp, hidden, self.mlp_bias),
                "mlp.up_proj": (mlp, hidden, self.mlp_bias),
                "mlp.down_proj": (hidden, mlp, self.mlp_bias),
            }
            layer: dict[str, tuple[int, ...]] = {
                "input_layernorm.weight": (hidden,),
                "post_attention_layernorm.weight": (hidden,),
            }
            for name, (rows, columns, bias) in linears.items():
                layer[f"{name}.weight"] = (rows, columns)
                if bias:
                    layer[f"{name}.bias"] = (rows,)
            if self.qk_norm:
                layer["self_attn.q_norm.weight"] = layer["self_attn.k_norm.weight"] = (
                    self.head_dim,
                )
            shapes.update({f"model.layers.{i}.{name}": shape for name, shape in layer.items()})
        shapes["model.norm.weight"] = (hidden,)
        if not self.tie_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        return shapes


def choose_dtype(wanted: str, spec: DecoderSpec) -> DType:
    """The dtype to compute in. `auto` is the checkpoint's; float16, slow and narrow on CPUs,
    becomes bfloat16. ConfigError for any other.
    """
    name = spec.dtype if wanted == "auto" else wanted
    if name == "float32":
        return "float32"
    if name in ("bfloat16", "float16"):
        return "bfloat16"
    raise ConfigError(f"dtype {name} is not supported; supported are: {', '.join(DTYPE_BYTES)}")


def read_spec(model_dir: Path) -> DecoderSpec:
    """Read DIR/config.json; ConfigError says what is missing or not supported."""
    path = model_dir / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    return parse_spec(config)


def parse_spec(config: Mapping[str, Any]) -> DecoderSpec:
    """Turn a Hugging Face config into a spec; ConfigError for everything this decoder would
    compute wrongly.
    """
    architectures = config.get("architectures") or ["(none given)"]
    architecture = architectures[0]
    if architecture not in SUPPORTED:
        raise ConfigError(
            f"architecture {architecture} is not supported; supported are: {', '.join(SUPPORTED)}"
        )
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise ConfigError(f"activation {activation} is not supported; supported is: silu")
    if config.get("quantization_config"):
        raise ConfigError("quantized checkpoints are not supported")
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        # What the architectures differ in. Qwen2 always has three biases, Mistral never any.
        qwen2, qwen3 = architecture == "Qwen2ForCausalLM", architecture == "Qwen3ForCausalLM"
        mistral = architecture == "MistralForCausalLM"
        attention_bias = bool(config.get("attention_bias", False)) and not (mistral or qwen2)
        return DecoderSpec(
            architecture=architecture,
            vocab_size=config["vocab_size"],
            hidden_size=hidden,
            intermediate_size=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or (128 if qwen3 else hidden // heads),
            norm_eps=config.get("rms_norm_eps", 1e-6),
            qk_norm=qwen3,
            qkv_bias=attention_bias or qwen2,
            o_bias=attention_bias,
            mlp_bias=architecture == "LlamaForCausalLM" and bool(config.get("mlp_bias", False)),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            max_position=config["max_position_embeddings"],
            dtype=config.get("dtype") or config.get("torch_dtype") or "float32",
            rope=_parse_rope(config),
            windows=_parse_windows(architecture, config),
        )
    except KeyError as error:
        raise ConfigError(f"config.json has no {error.args[0]}") from error


def _parse_windows(architecture: str, config: Mapping[str, Any]) -> tuple[int | None, ...]:
    # The defaults are those of transformers' configuration classes. A window of null is none.
    layers: int = config["num_hidden_layers"]
    window: int | None = config.get("sliding_window", 4096)
    if architecture == "MistralForCausalLM":
        return (window,) * layers
    if architecture == "LlamaForCausalLM" or not config.get("use_sliding_window", False):
        return (None,) * layers
    kinds = config.get("layer_types")
    if kinds is None:
        first = config.get("max_window_layers", 28)
        kinds = ["full_attention"] * first + ["sliding_attention"] * layers
    elif len(kinds) != layers or set(kinds) - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"layer_types of {layers} layers is not supported: {kinds}")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds[:layers])


def _parse_rope(config: Mapping[str, Any]) -> RopeSpec:
    # transformers 5 writes rope_parameters with rope_theta inside; older ones rope_theta beside
    # rope_scaling.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ConfigError("partial rotary embeddings are not supported")
    if kind == "default":
        return RopeSpec(theta)
    if kind == "linear":
        return RopeSpec(theta, "linear", factor=rope["factor"])
    if kind == "llama3":
        return RopeSpec(
            theta,
            "llama3",
            factor=rope["factor"],
            low_freq_factor=rope["low_freq_factor"],
            high_freq_factor=rope["high_freq_factor"],
            original_max_position=rope["original_max_position_embeddings"],
        )
    raise ConfigError(
        f"RoPE scaling {kind} is not supported; supported are: default, linear, llama3"
    )
