"""What all endpoints work with."""

from __future__ import annotations

import asyncio
import hashlib
import time
from functools import cached_property
from importlib import metadata

import msgspec

from pagoda_runtime.config import ServeConfig
from pagoda_runtime.server import ipc
from pagoda_runtime.server.api.sampling import ModelLimits
from pagoda_runtime.server.engine_client import EngineClient
from pagoda_runtime.server.metrics import Metrics
from pagoda_runtime.server.state import ReplicaState
from pagoda_runtime.server.text import TextModel
from pagoda_runtime.server.token_text import TokenText

# Characters. Tokenizing more is left to a thread, so that it holds up nobody's stream; for less the
# way there and back would take longer.
_SHORT = 4096


class Api:
    """One replica's parts. `text` is set when it has been read, before the state becomes ready."""

    def __init__(
        self, config: ServeConfig, engine: EngineClient, state: ReplicaState, metrics: Metrics
    ) -> None:
        self.config = config
        self.engine = engine
        self.state = state
        self.metrics = metrics
        self.text: TextModel | None = None
        self.created = int(time.time())

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names it answers to."""
        return self.config.model_names

    @property
    def ready_text(self) -> TextModel:
        """The text side; only for requests that were admitted."""
        assert self.text is not None
        return self.text

    @property
    def info(self) -> ipc.Loaded:
        """What the engine loaded; only for requests that were admitted."""
        assert self.engine.info is not None
        return self.engine.info

    @cached_property
    def tokens(self) -> TokenText:
        """Single tokens as text."""
        return TokenText(self.ready_text.tokenizer)

    @cached_property
    def limits(self) -> ModelLimits:
        """What the model allows."""
        return ModelLimits(
            max_model_len=self.info.max_model_len,
            vocab_size=self.info.vocab_size,
            defaults=self.ready_text.defaults,
            eos_token_ids=self.ready_text.eos_token_ids,
        )

    @cached_property
    def version(self) -> str:
        """The program's version."""
        return metadata.version("pagoda")

    @cached_property
    def fingerprint(self) -> str:
        """`system_fingerprint`: the same while nothing changes that answers depend on."""
        engine = self.config.engine
        what = (self.version, engine.model, engine.dtype, engine.quantization, engine.execution)
        return f"fp_{hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:10]}"

    @property
    def max_choices(self) -> int:
        """The most answers that one request can get: an empty replica takes so many at once."""
        return self.config.engine.max_num_seqs + self.config.engine.queued_reqs_bound

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Text to token ids."""
        encode = self.ready_text.encode
        if len(text) <= _SHORT:
            return encode(text, add_special_tokens=add_special_tokens)
        return await asyncio.to_thread(encode, text, add_special_tokens=add_special_tokens)
