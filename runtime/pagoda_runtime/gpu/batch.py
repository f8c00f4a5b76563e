"""A step's chunks as the kernels take them: filled on the host, copied to the device at once.

Every array has its fixed place in one buffer, so that a step costs one copy, and a captured CUDA
graph finds each step's numbers where it found those of the step it was captured with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda_runtime.engine.request import Request
from pagoda_runtime.engine.step import Chunk
from pagoda_runtime.gpu.kernels.paged_attention import PREFILL_ROWS, Tiles, tokens_per_tile
from pagoda_runtime.gpu.kernels.sampling import Parameters

_ALIGNMENT = 16  # bytes: Triton reads four numbers at once where it knows that it may


@dataclass(frozen=True)
class Limits:
    """The largest step: tokens, sequences, and blocks in a block table. The heads of the model
    decide how many tokens a tile holds.
    """

    tokens: int
    sequences: int
    blocks: int
    block_size: int
    num_heads: int
    num_kv_heads: int

    @property
    def prefill_tokens(self) -> int:
        """How many tokens of one sequence a prefill tile holds."""
        return tokens_per_tile(PREFILL_ROWS, self.num_heads, self.num_kv_heads)

    def arrays(self) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each array; what can be long comes last."""
        sequences = (self.sequences,)
        # Each sequence may end in a tile that is not full.
        tiles = (self.tokens // self.prefill_tokens + self.sequences,)
        return {
            "seed": (sequences, torch.int64),
            "at": (sequences, torch.int64),
            "temperature": (sequences, torch.float32),
            "top_p": (sequences, torch.float32),
            "min_p": (sequences, torch.float32),
            "top_k": (sequences, torch.int32),
            "samples": (sequences, torch.int32),
            "row": (sequences, torch.int32),
            "length": (sequences, torch.int32),
            "context": (sequences, torch.int32),
            "decode": (sequences, torch.int32),
            "zero": (sequences, torch.int32),
            "source": (sequences, torch.int32),
            "prefill": (tiles, torch.int32),
            "first": (tiles, torch.int32),
            "token": ((self.tokens,), torch.int32),
            "position": ((self.tokens,), torch.int32),
            "slot": ((self.tokens,), torch.int32),
            "blocks": ((self.sequences, self.blocks), torch.int32),
        }


@dataclass(frozen=True)
class Step:
    """A step on the device.

    - tokens, positions, slots [rows] int32; see `rope_and_store`.
    - decodes: one tile for each chunk of one token, whose rows are the first; prefills: the other
      chunks' tiles.
    - samples [samples] int32: the rows whose logits choose a token, by `parameters`.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    decodes: Tiles
    prefills: Tiles
    samples: Tensor
    parameters: Parameters


class StepBuffers:
    """The arrays, twice: on the host, where a step is filled, and on the device."""

    def __init__(self, limits: Limits, device: torch.device) -> None:
        self.limits = limits
        self.device = device
        offsets, size = {}, 0
        for name, (shape, dtype) in limits.arrays().items():
            offsets[name] = size
            size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._blocks_at = offsets["blocks"]
        self._last: list[Request] = []  # of the step before, if it was of decodes alone

        def views(buffer: Tensor) -> dict[str, Tensor]:
            return {
                name: buffer[offsets[name] :][: math.prod(shape) * dtype.itemsize]
                .view(dtype)
                .view(shape)
                for name, (shape, dtype) in limits.arrays().items()
            }

        self._there = views(self._device)
        self._here: dict[str, npt.NDArray[Any]] = {
            name: view.numpy() for name, view in views(self._host).items()
        }

    def fill(self, chunks: Sequence[Chunk]) -> Step:
        """Put the chunks on the device, their rows one after another in this order: those of one
        token come first.
        """
        self._begin()
        rows, decodes, tiles, sampling = self._fill(chunks)
        self._last = []
        self._copy(len(chunks))
        return self._step(rows, decodes, tiles, len(sampling))

    def fill_decodes(self, requests: Sequence[Request], rows: int) -> Step:
        """Put a decode of each request on the device, in a step of at least as many rows. Those of no
        request compute something that nobody reads.
        """
        self._begin()
        self._here["token"][: len(requests)] = [request.token_ids[-1] for request in requests]
        self._fill_decodes(requests, 0)
        self._pad(len(requests), rows)
        self._copy(len(requests))
        return self._step(rows, rows, 0, rows)

    def fill_ahead(
        self, requests: Sequence[Request], rows: int, tokens: Tensor, sources: Sequence[int]
    ) -> Step:
        """The same for the decodes after those, before anybody knows the tokens: they are on the
        device, in `tokens` [any] int32, that of each request at its place in `sources`.
        """
        count = len(requests)
        self._begin()
        self._fill_decodes(requests, 1)
        self._here["source"][:count] = sources
        self._pad(count, rows)
        self._copy(count)
        there = self._there
        torch.index_select(tokens, 0, there["source"][:count], out=there["token"][:count])
        return self._step(rows, rows, 0, rows)

    def _fill_decodes(self, requests: Sequence[Request], ahead: int) -> None:
        """All but the tokens. Mostly they are the requests of the step before, each one token
        further: then little changes.
        """
        here, size, count = self._here, self.limits.block_size, len(requests)
        positions = [request.num_tokens - 1 + ahead for request in requests]
        if requests == self._last and positions[0] == here["position"][0] + 1:
            for name in ("position", "slot", "context", "at"):
                here[name][:count] += 1
            for i in np.flatnonzero(here["position"][:count] % size == 0).tolist():
                at = positions[i] // size
                here["blocks"][i, at] = block = requests[i].block_table[at]
                here["slot"][i] = block * size
            return
        self._last = list(requests)
        for i, request in enumerate(requests):
            used = positions[i] // size + 1
            here["blocks"][i, :used] = request.block_table[:used]
        here["position"][:count] = positions
        place = here["position"][:count]
        blocks = here["blocks"][np.arange(count), place // size]
        here["slot"][:count] = blocks * size + place % size
        here["context"][:count] = place + 1
        here["length"][:count] = 1
        here["row"][:count] = here["decode"][:count] = np.arange(count)
        self._fill_parameters(list(enumerate(requests)))
        here["at"][:count] = place + 1

    def _fill(self, chunks: Sequence[Chunk]) -> tuple[int, int, int, Sequence[tuple[int, Request]]]:
        """→ rows, decodes, prefill tiles, and who samples by which row."""
        here, size = self._here, self.limits.block_size
        rows = tiles = decodes = 0
        sampling: list[tuple[int, Request]] = []
        for i, chunk in enumerate(chunks):
            request, start, end = chunk.request, chunk.start, chunk.end
            table = here["blocks"][i]
            used = -(-end // size)
            table[:used] = request.block_table[:used]
            some = slice(rows, rows + chunk.length)
            positions = np.arange(start, end, dtype=np.int32)
            here["token"][some] = request.token_ids[start:end]
            here["position"][some] = positions
            here["slot"][some] = table[positions // size] * size + positions % size
            here["row"][i], here["length"][i], here["context"][i] = rows, chunk.length, end
            if chunk.length == 1:
                here["decode"][decodes] = i
                decodes += 1
            else:
                firsts = np.arange(0, chunk.length, self.limits.prefill_tokens, dtype=np.int32)
                here["first"][tiles : tiles + len(firsts)] = firsts
                here["prefill"][tiles : tiles + len(firsts)] = i
                tiles += len(firsts)
            rows += chunk.length
            if chunk.samples:
                sampling.append((rows - 1, request))
        self._fill_parameters(sampling)
        return rows, decodes, tiles, sampling

    def _begin(self) -> None:
        """Wait until the last step's copy has been made: it may still read what is filled now."""
        if self._copied is not None:
            self._copied.synchronize()

    def _copy(self, sequences: int) -> None:
        used = self._blocks_at + sequences * self.limits.blocks * 4
        self._device[:used].copy_(self._host[:used], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def padding(self, rows: int) -> Step:
        """A step of so many rows of no chunk, to capture it. What it has is what `fill_decodes` for as
        many rows changes.
        """
        self._begin()
        self._last = []
        self._pad(0, rows)
        self._copy(rows)
        return self._step(rows, rows, 0, rows)

    def _fill_parameters(self, sampling: Sequence[tuple[int, Request]]) -> None:
        here = self._here
        for i, (row, request) in enumerate(sampling):
            params = request.sampling
            here["samples"][i] = row
            here["temperature"][i] = params.temperature
            here["top_p"][i] = params.top_p
            here["min_p"][i] = params.min_p
            here["top_k"][i] = params.top_k
            here["seed"][i] = _signed(params.seed or 0)
            here["at"][i] = request.num_tokens

    def _pad(self, begin: int, end: int) -> None:
        """Rows that store nothing, are in no tile, and take their highest logit."""
        here, some = self._here, slice(begin, end)
        here["slot"][some] = here["decode"][some] = -1
        here["position"][some] = here["token"][some] = 0
        here["temperature"][some] = 0.0
        here["samples"][some] = np.arange(begin, end)

    def _step(self, rows: int, decodes: int, tiles: int, samples: int) -> Step:
        there = self._there
        sequences = (there["row"], there["length"], there["context"], there["blocks"])
        parameters = Parameters(
            there["temperature"],
            there["top_p"],
            there["min_p"],
            there["top_k"],
            there["seed"],
            there["at"],
        )
        return Step(
            tokens=there["token"][:rows],
            positions=there["position"][:rows],
            slots=there["slot"][:rows],
            decodes=Tiles(there["decode"][:decodes], there["zero"][:decodes], *sequences),
            prefills=Tiles(there["prefill"][:tiles], there["first"][:tiles], *sequences),
            samples=there["samples"][:samples],
            parameters=parameters[:samples],
        )


def _signed(seed: int) -> int:
    """The same 64 bits as a signed number."""
    return (seed + 2**63) % 2**64 - 2**63
