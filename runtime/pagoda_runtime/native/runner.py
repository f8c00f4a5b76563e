"""The fused CPU execution as a `Runner`: a step's chunks as arrays, one call, tokens back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pagoda_runtime import cgroup
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.kv_size import KVSize
from pagoda_runtime.engine.request import Request
from pagoda_runtime.engine.step import Chunk, ChunkOutput, ExecutionUnavailableError, Sampled
from pagoda_runtime.model.spec import DecoderSpec, choose_dtype
from pagoda_runtime.native.library import ROW, Batch, Model, NativeError, Result, load_library
from pagoda_runtime.native.model import create_model, load_weights
from pagoda_runtime.native.weights import read_weights


class NativeRunner:
    """Turns chunks into the library's arrays."""

    def __init__(self, model: Model, block_size: int) -> None:
        self._model = model
        self._block_size = block_size

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        """See `Runner`."""
        sampling = [(i, chunk.request) for i, chunk in enumerate(chunks) if chunk.samples]
        result = self._model.step(self._batch(chunks, sampling))
        outputs = [ChunkOutput()] * len(chunks)
        for row, (index, request) in enumerate(sampling):
            outputs[index] = ChunkOutput(_sampled(result, row, request))
        return outputs

    def _batch(self, chunks: Sequence[Chunk], sampling: Sequence[tuple[int, Request]]) -> Batch:
        used = [-(-chunk.end // self._block_size) for chunk in chunks]
        tables = np.zeros((len(chunks), max(used)), np.int32)
        tokens: list[int] = []
        for table, count, chunk in zip(tables, used, chunks, strict=True):
            table[:count] = chunk.request.block_table[:count]
            tokens += chunk.request.token_ids[chunk.start : chunk.end]
        rows = np.zeros(len(sampling), ROW)
        history: list[int] = []
        biases: list[tuple[int, float]] = []
        for row, (chunk_index, request) in enumerate(sampling):
            params = request.sampling
            penalised = (
                params.presence_penalty != 0
                or params.frequency_penalty != 0
                or params.repetition_penalty != 1
            )
            prompt_begin, bias_begin = len(history), len(biases)
            if penalised:
                history += request.token_ids
            biases += request.biases
            rows[row] = (
                chunk_index,
                params.top_k,
                params.temperature,
                params.top_p,
                params.min_p,
                params.presence_penalty,
                params.frequency_penalty,
                params.repetition_penalty,
                -1 if params.logprobs is None else params.logprobs,
                prompt_begin,
                prompt_begin + len(request.prompt_ids) if penalised else prompt_begin,
                len(history),
                bias_begin,
                len(biases),
                (params.seed or 0) % 2**64,
                request.num_tokens,
            )
        return Batch(
            starts=np.array([chunk.start for chunk in chunks], np.int32),
            lengths=np.array([chunk.length for chunk in chunks], np.int32),
            tokens=np.array(tokens, np.int32),
            block_tables=tables,
            rows=rows,
            history=np.array(history, np.int32),
            bias_tokens=np.array([token for token, _ in biases], np.int32),
            biases=np.array([bias for _, bias in biases], np.float32),
        )


def _sampled(result: Result, row: int, request: Request) -> Sampled:
    token, wanted = int(result.tokens[row]), request.sampling.logprobs
    if wanted is None:
        return Sampled(token)
    top = zip(result.top_tokens[row, :wanted], result.top_values[row, :wanted], strict=True)
    return Sampled(
        token, float(result.logprobs[row]), tuple((int(t), float(value)) for t, value in top)
    )


def load(config: EngineConfig, spec: DecoderSpec, size: KVSize) -> NativeRunner:
    """The runner with its weights and its cache; ExecutionUnavailableError says what it lacks."""
    if choose_dtype(config.dtype, spec) != "bfloat16":
        raise ExecutionUnavailableError("it computes in bfloat16 and the model is float32")
    if config.block_size % 2 != 0:
        raise ExecutionUnavailableError("--block-size must be even for it")
    try:
        model = create_model(
            load_library(),
            spec,
            block_size=config.block_size,
            num_blocks=size.num_blocks,
            max_tokens=config.max_num_batched_tokens,
            threads=cgroup.thread_count(),
            int8=config.quantization == "int8",
        )
    except NativeError as error:
        raise ExecutionUnavailableError(str(error)) from error
    load_weights(model, read_weights(Path(config.model), spec, config.load_format, config.seed))
    return NativeRunner(model, config.block_size)
