"""The execution on a GPU as a `Runner`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import torch
from torch import Tensor

from pagoda_runtime.config import EngineConfig, Rank
from pagoda_runtime.engine.kv_size import KVSize, block_bytes, logits_rows, size_kv_cache
from pagoda_runtime.engine.progress import LoadProgress
from pagoda_runtime.engine.reading import read_prompt
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.engine.sampler import adjust, describe
from pagoda_runtime.engine.step import (
    Chunk,
    ChunkOutput,
    ExecutionUnavailableError,
    Runner,
    Sampled,
)
from pagoda_runtime.gpu.ahead import Ahead, TokenFetcher
from pagoda_runtime.gpu.batch import Limits, Step, StepBuffers
from pagoda_runtime.gpu.decoder import GpuDecoder, KVCache
from pagoda_runtime.gpu.device import find
from pagoda_runtime.gpu.fp8 import in_fp8
from pagoda_runtime.gpu.graphs import DecodeGraphs, Decodes, Output
from pagoda_runtime.gpu.kernels import sampling
from pagoda_runtime.gpu.size import Memory, size_gpu_cache
from pagoda_runtime.model.decoder import Decoder
from pagoda_runtime.model.group import Group, join
from pagoda_runtime.model.loader import read_weights
from pagoda_runtime.model.shard import Shard
from pagoda_runtime.model.spec import DTYPE_BYTES, DType, choose_dtype

log = logging.getLogger("pagoda.engine")

# So few that small steps split their keys under the interpreter too.
_INTERPRETED_PROCESSORS = 4


class GpuRunner:
    """Runs steps; those of decodes alone, which are small and many, in certain sizes, and as soon as
    the step before is launched: see `gpu.ahead`.
    """

    looks_ahead = True

    def __init__(
        self,
        decoder: GpuDecoder,
        buffers: StepBuffers,
        group: Group,
        rows_at_once: int,
        max_decodes: int,
    ) -> None:
        """Prepare.

        Args:
            decoder: computes the model.
            buffers: for the largest step.
            group: who computes the model too.
            rows_at_once: the most rows of logits at once.
            max_decodes: the most decodes in a step.
        """
        self._decoder = decoder
        self._buffers = buffers
        self._group = group
        self._rows_at_once = rows_at_once
        # One for all graphs: at 256 rows it can be 150 MB.
        self._logits = torch.empty((max_decodes, decoder.vocab_size), device=buffers.device)
        kind = DecodeGraphs if buffers.device.type == "cuda" else Decodes
        with torch.inference_mode():
            self._decodes = kind(buffers, self._decode, max_decodes)
        self._fetch = TokenFetcher(max_decodes, buffers.device)
        self._ahead: Ahead | None = None

    def run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        """See `Runner`."""
        try:
            return self._run(chunks)
        except torch.OutOfMemoryError as error:
            if self._group.size > 1:
                # The other ranks are within the step and cannot try it again: the engine ends.
                raise
            torch.cuda.empty_cache()
            raise MemoryError(str(error)) from error

    @torch.inference_mode()
    def _run(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        ahead, self._ahead = self._ahead, None
        rows = [ahead.row_of(chunk) if ahead else None for chunk in chunks]
        found = [row for row in rows if row is not None]
        if ahead and len(found) == len(chunks):
            requests = [chunk.request for chunk in chunks]
            self._ahead = self._look_ahead(requests, ahead.device_tokens, found)
            tokens = ahead.tokens()
            return [ChunkOutput(Sampled(tokens[row])) for row in found]
        rest = [chunk for chunk, row in zip(chunks, rows, strict=True) if row is None]
        others = iter(self._run_now(rest, is_whole=not found))
        if not ahead or not found:
            return list(others)
        tokens = ahead.tokens()
        return [next(others) if r is None else ChunkOutput(Sampled(tokens[r])) for r in rows]

    def _run_now(self, chunks: Sequence[Chunk], *, is_whole: bool) -> list[ChunkOutput]:
        """Run chunks that nobody has launched yet; a whole step may be followed by the next."""
        if all(c.length == 1 and c.samples and not c.wanted for c in chunks):
            requests = [chunk.request for chunk in chunks]
            return [ChunkOutput(one) for one in self._run_decodes(requests, is_whole)]
        ordered = sorted(chunks, key=lambda chunk: chunk.length > 1)
        outputs = self._run_ordered(ordered)
        by_request = {c.request.id: o for c, o in zip(ordered, outputs, strict=True)}
        return [by_request[chunk.request.id] for chunk in chunks]

    def _run_decodes(self, requests: Sequence[Request], is_whole: bool) -> list[Sampled]:
        size = self._decodes.size_for(len(requests))
        step = self._buffers.fill_decodes(requests, size)
        output = self._decodes.run(size)
        if not is_whole or any(_needs_logits(request) for request in requests):
            return self._choose(requests, output, step)
        fetched = self._fetch(output.tokens)
        self._ahead = self._look_ahead(requests, output.tokens, range(len(requests)))
        return [Sampled(token) for token in fetched()[: len(requests)]]

    def _look_ahead(
        self, requests: Sequence[Request], tokens: Tensor, places: Sequence[int]
    ) -> Ahead | None:
        """Launch the decodes after those of the requests, whose tokens are still on their way, each at
        its place in `tokens`. Not of those that end now, or have no block for it yet.
        """
        size = self._buffers.limits.block_size
        going = [
            (request, place)
            for request, place in zip(requests, places, strict=True)
            if request.num_outputs + 1 < request.max_tokens
            and request.num_tokens < len(request.block_table) * size
        ]
        if not going:
            return None
        continued = [request for request, _ in going]
        rows = self._decodes.size_for(len(going))
        self._buffers.fill_ahead(continued, rows, tokens, [place for _, place in going])
        output = self._decodes.run(rows)
        return Ahead(continued, output.tokens, self._fetch(output.tokens))

    def _run_ordered(self, chunks: Sequence[Chunk]) -> list[ChunkOutput]:
        """Decodes come first."""
        step = self._buffers.fill(chunks)
        hidden = self._decoder.forward(step)
        sampled: dict[str, Sampled] = {}
        if requests := [chunk.request for chunk in chunks if chunk.samples]:
            chosen = self._choose(requests, self._sample(hidden, step), step)
            sampled = {r.id: s for r, s in zip(requests, chosen, strict=True)}
        parts = torch.split(hidden, [chunk.length for chunk in chunks])
        return [
            ChunkOutput(
                sampled.get(chunk.request.id),
                *read_prompt(chunk, part, self._decoder.logits, self._rows_at_once),
            )
            for chunk, part in zip(chunks, parts, strict=True)
        ]

    def _decode(self, step: Step) -> Output:
        """A step of decodes, all of which sample."""
        return self._sample(self._decoder.forward(step), step)

    def _sample(self, hidden: Tensor, step: Step) -> Output:
        logits = self._logits[: len(step.samples)]
        self._decoder.logits_into(logits, hidden.index_select(0, step.samples))
        tokens = torch.empty(len(logits), dtype=torch.int32, device=logits.device)
        sampling.sample(logits, step.parameters, tokens)
        # Ranks could differ in the last bit of a logit, and then in all that follows.
        return Output(logits, self._group.broadcast(tokens))

    def _choose(self, requests: Sequence[Request], output: Output, step: Step) -> list[Sampled]:
        """What became of the requests' rows, the output's first ones."""
        tokens = output.tokens
        changed = [i for i, request in enumerate(requests) if _changes_logits(request)]
        if changed:
            tokens = tokens.clone()
        for i in changed:
            row = adjust(output.logits[i], requests[i])
            sampling.sample(row[None], step.parameters[i : i + 1], tokens[i : i + 1])
        if changed:
            self._group.broadcast(tokens)
        chosen = tokens[: len(requests)].tolist()
        return [
            self._describe(output.logits[i], token, request)
            for i, (token, request) in enumerate(zip(chosen, requests, strict=True))
        ]

    @staticmethod
    def _describe(logits: Tensor, token: int, request: Request) -> Sampled:
        count = request.sampling.logprobs
        return Sampled(token) if count is None else describe(logits, token, count)


def _needs_logits(request: Request) -> bool:
    """Whether its token is not all that is wanted of a step, or not what the kernel chose."""
    return request.sampling.logprobs is not None or _changes_logits(request)


def _changes_logits(request: Request) -> bool:
    """Whether the request has a bias or a penalty: rare, so done row by row outside the kernel."""
    params: SamplingParams = request.sampling
    penalties = (params.presence_penalty, params.frequency_penalty, params.repetition_penalty)
    return penalties != (0.0, 0.0, 1.0) or bool(request.biases)


def load(
    config: EngineConfig, shard: Shard, rank: Rank, progress: LoadProgress
) -> tuple[Runner, KVSize]:
    """The runner with weights, cache and graphs on the rank's GPU; where kernels are interpreted on the
    CPU, without graphs.
    """
    device = find(rank.index, shard.size)
    if config.quantization not in (None, "fp8"):
        raise ExecutionUnavailableError(f"GPUs have no --quantization {config.quantization}")
    if config.quantization == "fp8" and not _has_fp8(device):
        raise ExecutionUnavailableError(
            "--quantization fp8 needs a GPU of compute capability 8.9 or later"
        )
    spec = shard.spec
    name = choose_dtype(config.dtype, spec)
    group = join(rank, shard.size, device)
    dtype = getattr(torch, name)
    read = read_weights(Path(config.model), shard, dtype, config.load_format, config.seed)
    # Nothing else keeps the tensors: of those that are merged only the whole stays.
    decoder = Decoder(
        spec,
        {n: t.to(device, non_blocking=True) for n, t in progress.watch(read)},
        config.max_model_len or spec.max_position,
        group,
    )
    decoder.cos, decoder.sin = decoder.cos.to(device), decoder.sin.to(device)
    if config.quantization == "fp8":
        decoder.layers = [in_fp8(layer) for layer in decoder.layers]
    size = KVSize(*group.minimum(astuple(_measure(device, config, decoder, name))))
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the trial left, so that the cache gets it
    return _runner(device, config, decoder, size), size


def _has_fp8(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)


def _runner(
    device: torch.device, config: EngineConfig, decoder: Decoder, size: KVSize
) -> GpuRunner:
    spec = decoder.spec
    shape = (spec.num_layers, size.num_blocks, config.block_size, spec.num_kv_heads, spec.head_dim)
    keys, values = (
        torch.empty(shape, dtype=decoder.embedding.dtype, device=device) for _ in range(2)
    )
    limits = Limits(
        tokens=config.max_num_batched_tokens,
        sequences=config.max_num_seqs,
        blocks=-(-size.max_model_len // config.block_size),
        block_size=config.block_size,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
    )
    buffers = StepBuffers(limits, device)
    processors = _INTERPRETED_PROCESSORS
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    cache = KVCache(keys, values)
    return GpuRunner(
        GpuDecoder(decoder, cache, config.max_num_seqs, processors),
        buffers,
        decoder.group,
        logits_rows(config.max_num_seqs),
        config.max_num_seqs,
    )


def _measure(device: torch.device, config: EngineConfig, decoder: Decoder, dtype: DType) -> KVSize:
    """Size the cache by what is left when graphs are captured and the largest step has run.

    Graphs know the cache's address. So they are captured twice: with a cache of a few blocks, which
    is thrown away with them, and again with the real one, where they take the same memory.
    """
    spec = decoder.spec
    if device.type != "cuda":
        return size_kv_cache(config, spec, dtype)
    chunks = _largest_step(config, len(decoder.cos))
    blocks = sum(len(chunk.request.block_table) for chunk in chunks)
    trial = _runner(device, config, decoder, KVSize(blocks, 0, len(decoder.cos)))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    trial.run(chunks)
    step = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    cache = blocks * block_bytes(spec, config.block_size, DTYPE_BYTES[dtype])
    memory = Memory(total, total - free - cache, step)
    log.info("gpu measured", extra={"total": total, "used": memory.used, "step": step})
    return size_gpu_cache(config, spec, dtype, memory)


def _largest_step(config: EngineConfig, longest: int) -> list[Chunk]:
    """As many prompts, as long as they can be, as fill a step."""
    chunks: list[Chunk] = []
    left, block = config.max_num_batched_tokens, 0
    while left and len(chunks) < config.max_num_seqs:
        length = min(left, longest - 1)
        request = Request(str(len(chunks)), [0] * length, SamplingParams(max_tokens=1, seed=0))
        request.block_table = list(range(block, block - (-length // config.block_size)))
        chunks.append(Chunk(request, 0, length))
        left, block = left - length, block + len(request.block_table)
    return chunks
