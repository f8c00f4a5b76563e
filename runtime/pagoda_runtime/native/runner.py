"""The fused CPU execution as a `Runner`: a step's chunks as arrays, one call, answers back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pagoda_runtime import cgroup
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.kv_size import KVSize, logits_rows, size_kv_cache
from pagoda_runtime.engine.progress import LoadProgress
from pagoda_runtime.engine.request import PoolingParams, Request
from pagoda_runtime.engine.step import (
    Chunk,
    ChunkOutput,
    ExecutionUnavailableError,
    Runner,
    Sampled,
)
from pagoda_runtime.model.spec import DecoderSpec, choose_dtype
from pagoda_runtime.native.library import (
    ROW,
    Batch,
    Model,
    NativeError,
    Result,
    Rows,
    load_library,
)
from pagoda_runtime.native.model import create_model, load_weights
from pagoda_runtime.native.weights import read_weights


class NativeRunner:
    """Turns chunks into the library's arrays."""

    looks_ahead = False

    def __init__(self, model: Model, block_size: int, hidden_size: int) -> None:
        self._model = model
        self._block_size = block_size
        self._hidden_size = hidden_size

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        """See `Runner`."""
        asked = _ask(chunks)
        result = self._model.step(self._batch(chunks, asked))
        sampled = {
            request.id: _sampled(result, row, request.sampling.logprobs)
            for row, (_, request) in enumerate(asked.sampling)
        }
        scores: dict[str, list[Sampled]] = {}
        row = len(sampled)
        for rows, _, request in asked.scoring:
            wanted = request.sampling.prompt_logprobs
            scores[request.id] = [_sampled(result, row + i, wanted) for i in range(len(rows))]
            row += len(rows)
        sums = {
            request.id: total.tolist()
            for (_, request), total in zip(asked.pooling, result.sums, strict=True)
        }
        names = [chunk.request.id for chunk in chunks]
        return [ChunkOutput(sampled.get(n), scores.get(n, ()), sums.get(n)) for n in names]

    def _batch(self, chunks: Sequence[Chunk], asked: _Asked) -> Batch:
        used = [-(-chunk.end // self._block_size) for chunk in chunks]
        tables = np.zeros((len(chunks), max(used)), np.int32)
        tokens: list[int] = []
        for table, count, chunk in zip(tables, used, chunks, strict=True):
            table[:count] = chunk.request.block_table[:count]
            tokens += chunk.request.token_ids[chunk.start : chunk.end]
        sampling, history, biases = _sampling_rows(asked)
        sums = np.zeros((len(asked.pooling), self._hidden_size))
        for total, (_, request) in zip(sums, asked.pooling, strict=True):
            if request.hidden_sum is not None:
                total[:] = request.hidden_sum
        return Batch(
            starts=np.array([chunk.start for chunk in chunks], np.int32),
            lengths=np.array([chunk.length for chunk in chunks], np.int32),
            tokens=np.array(tokens, np.int32),
            block_tables=tables,
            rows=np.concatenate([sampling, *_scoring_rows(asked)]) if asked.scoring else sampling,
            history=np.array(history, np.int32),
            bias_tokens=np.array([token for token, _ in biases], np.int32),
            biases=np.array([bias for _, bias in biases], np.float32),
            pools=np.array([(rows.start, rows.stop) for rows, _ in asked.pooling], np.int32),
            sums=sums,
        )


@dataclass(frozen=True)
class _Asked:
    """Which of a step's rows, which are its tokens, are asked for what."""

    sampling: list[tuple[int, Request]]
    scoring: list[tuple[range, list[int], Request]]  # rows and the token that each scores
    pooling: list[tuple[range, Request]]


def _ask(chunks: Sequence[Chunk]) -> _Asked:
    asked = _Asked([], [], [])
    first_row = 0
    for chunk in chunks:
        request, wanted = chunk.request, chunk.wanted
        if chunk.samples:
            asked.sampling.append((first_row + chunk.length - 1, request))
        if wanted:
            offset = first_row - chunk.start
            rows = range(wanted.start + offset, wanted.stop + offset)
            if isinstance(request.params, PoolingParams):
                asked.pooling.append((rows, request))
            else:
                scored = request.prompt_ids[wanted.start + 1 : wanted.stop + 1]
                asked.scoring.append((rows, scored, request))
        first_row += chunk.length
    return asked


def _sampling_rows(asked: _Asked) -> tuple[Rows, list[int], list[tuple[int, float]]]:
    """The rows that sample, with the history and the biases that they have slices of."""
    rows = np.zeros(len(asked.sampling), ROW)
    history: list[int] = []
    biases: list[tuple[int, float]] = []
    for row, (step_row, request) in enumerate(asked.sampling):
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
            step_row,
            -1,
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
    return rows, history, biases


def _scoring_rows(asked: _Asked) -> Iterator[Rows]:
    for step_rows, tokens, request in asked.scoring:
        rows = np.zeros(len(step_rows), ROW)
        rows["row"], rows["scored"] = step_rows, tokens
        rows["top_logprobs"] = request.sampling.prompt_logprobs
        yield rows


def _sampled(result: Result, row: int, wanted: int | None) -> Sampled:
    token = int(result.tokens[row])
    if wanted is None:
        return Sampled(token)
    tokens, values = result.top_tokens[row, :wanted], result.top_values[row, :wanted]
    top = zip(tokens.tolist(), values.tolist(), strict=True)
    return Sampled(token, float(result.logprobs[row]), tuple(top))


def load(config: EngineConfig, spec: DecoderSpec, progress: LoadProgress) -> tuple[Runner, KVSize]:
    """The runner with its weights and its cache; ExecutionUnavailableError says what it lacks."""
    dtype = choose_dtype(config.dtype, spec)
    if dtype != "bfloat16":
        raise ExecutionUnavailableError("it computes in bfloat16 and the model is float32")
    if config.block_size % 2 != 0:
        raise ExecutionUnavailableError("--block-size must be even for it")
    size = size_kv_cache(config, spec, dtype)
    try:
        model = create_model(
            load_library(),
            spec,
            block_size=config.block_size,
            num_blocks=size.num_blocks,
            max_tokens=config.max_num_batched_tokens,
            logits_rows=logits_rows(config.max_num_seqs),
            threads=cgroup.thread_count(),
            int8=config.quantization == "int8",
        )
    except NativeError as error:
        raise ExecutionUnavailableError(str(error)) from error
    weights = read_weights(Path(config.model), spec, config.load_format, config.seed)
    load_weights(model, progress.watch(weights))
    return NativeRunner(model, config.block_size, spec.hidden_size), size
