"""The C interface of runtime/csrc/pagoda.h, through ctypes and numpy."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int32, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PATH = Path(__file__).with_name("libpagoda.so")
_ABI = 2
_NO_MEMORY = "not enough memory"  # what csrc/pagoda.cpp makes of std::bad_alloc

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Rows = npt.NDArray[np.void]  # of ROW


class NativeError(Exception):
    """The library refused or failed; the message is its reason."""


class InstructionSet(IntEnum):
    """What the kernels are compiled for; NONE as a wish takes the best there is."""

    NONE = 0
    AVX2 = 1
    AVX512 = 2


class Tensor(IntEnum):
    """Which weight a tensor is; the first three are the model's, the others a layer's."""

    EMBEDDING = 0
    LM_HEAD = 1
    FINAL_NORM = 2
    INPUT_NORM = 3
    POST_NORM = 4
    Q_NORM = 5
    K_NORM = 6
    Q_WEIGHT = 7
    K_WEIGHT = 8
    V_WEIGHT = 9
    O_WEIGHT = 10
    GATE_WEIGHT = 11
    UP_WEIGHT = 12
    DOWN_WEIGHT = 13
    Q_BIAS = 14
    K_BIAS = 15
    V_BIAS = 16
    O_BIAS = 17
    GATE_BIAS = 18
    UP_BIAS = 19
    DOWN_BIAS = 20


class Config(ctypes.Structure):
    """PagodaConfig."""

    _fields_ = (
        *(
            (name, c_int32)
            for name in (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_layers",
                "num_heads",
                "num_kv_heads",
                "head_dim",
                "qk_norm",
                "qkv_bias",
                "o_bias",
                "mlp_bias",
                "tie_embeddings",
                "int8",
                "block_size",
                "num_blocks",
                "max_tokens",
                "logits_rows",
                "threads",
                "instruction_set",
            )
        ),
        ("norm_eps", c_float),
    )


# PagodaRow, what becomes of one row of logits.
ROW = np.dtype(
    [
        ("row", np.int32),
        ("scored", np.int32),
        ("top_k", np.int32),
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("repetition_penalty", np.float32),
        ("top_logprobs", np.int32),
        ("prompt_begin", np.int32),
        ("answer_begin", np.int32),
        ("answer_end", np.int32),
        ("bias_begin", np.int32),
        ("bias_end", np.int32),
        ("seed", np.uint64),
        ("position", np.uint64),
    ],
    align=True,
)


class _Step(ctypes.Structure):
    """PagodaStep."""

    _fields_ = (
        ("num_chunks", c_int32),
        ("starts", c_void_p),
        ("lengths", c_void_p),
        ("tokens", c_void_p),
        ("block_tables", c_void_p),
        ("table_width", c_int32),
        ("num_rows", c_int32),
        ("rows", c_void_p),
        ("history", c_void_p),
        ("bias_tokens", c_void_p),
        ("biases", c_void_p),
        ("num_pools", c_int32),
        ("pools", c_void_p),
        ("sampled", c_void_p),
        ("logprobs", c_void_p),
        ("max_top_logprobs", c_int32),
        ("top_tokens", c_void_p),
        ("top_values", c_void_p),
        ("logits", c_void_p),
        ("pooled", c_void_p),
    )


@dataclass(frozen=True)
class Batch:
    """Input of a step. Chunks lie one after another in `tokens`, which are the step's rows; `rows` are
    those whose logits are wanted, `pools` those whose hidden states are.
    """

    starts: Ints  # [chunks] position of the first token
    lengths: Ints  # [chunks]
    tokens: Ints  # [sum of lengths]
    block_tables: Ints  # [chunks, blocks]
    rows: Rows  # [wanted rows] of ROW
    history: Ints  # tokens that rows' penalties look at
    bias_tokens: Ints
    biases: Floats
    pools: Ints  # [pools, 2] first row, row after the last
    sums: Doubles  # [pools, hidden] what to add their hidden states to


@dataclass(frozen=True)
class Result:
    """Output of a step, by wanted row. Top log-probabilities are best first."""

    tokens: Ints  # [rows]
    logprobs: Floats  # [rows]
    top_tokens: Ints  # [rows, most that a row asks for]
    top_values: Floats  # likewise
    logits: Floats | None  # [rows, vocab]
    sums: Doubles  # [pools, hidden]


def load_library(path: Path = PATH) -> ctypes.CDLL:
    """The library; NativeError says why there is none or why it does not fit."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(f"no library: {error}") from error
    library.pagoda_error.restype = c_char_p
    if library.pagoda_abi() != _ABI:
        raise NativeError("the library is of another version: build it anew")
    library.pagoda_create.restype = c_void_p
    library.pagoda_create.argtypes = [POINTER(Config), c_void_p, c_void_p]
    library.pagoda_load.argtypes = [c_void_p, c_int32, c_int32, c_void_p, c_int32]
    library.pagoda_step.argtypes = [c_void_p, POINTER(_Step)]
    library.pagoda_destroy.argtypes = [c_void_p]
    library.pagoda_destroy.restype = None
    return library


class Model:
    """A model in the library: weights, KV blocks and threads. Not thread safe."""

    def __init__(
        self, library: ctypes.CDLL, config: Config, inverse_frequencies: Floats, windows: Ints
    ) -> None:
        """inverse_frequencies [head_dim / 2] radians per position, windows [layers] with 0 for
        none; NativeError if this machine or these sizes cannot be.
        """
        self._library = library
        self._vocab_size: int = config.vocab_size
        self._embedding: npt.NDArray[Any] | None = None
        self._handle: int | None = library.pagoda_create(
            ctypes.byref(config), _pointer(inverse_frequencies), _pointer(windows)
        )
        if self._handle is None:
            raise NativeError(self._reason())

    def load(self, tensor: Tensor, layer: int, data: npt.NDArray[Any]) -> None:
        """Hand over one weight: float32, or uint16 holding bfloat16 bits."""
        assert data.flags.c_contiguous
        assert data.dtype in (np.float32, np.uint16)
        if tensor == Tensor.EMBEDDING:
            self._embedding = data  # The library reads bfloat16 embeddings where they are.
        is_float = int(data.dtype == np.float32)
        self._check(
            self._library.pagoda_load(self._handle, tensor, layer, _pointer(data), is_float)
        )

    def step(self, batch: Batch, *, want_logits: bool = False) -> Result:
        """Compute a step; NativeError for blocks, tokens or chunks that cannot be."""
        rows = len(batch.rows)
        most = max(0, int(batch.rows["top_logprobs"].max(initial=0)))
        result = Result(
            tokens=np.empty(rows, np.int32),
            logprobs=np.empty(rows, np.float32),
            top_tokens=np.empty((rows, most), np.int32),
            top_values=np.empty((rows, most), np.float32),
            logits=np.empty((rows, self._vocab_size), np.float32) if want_logits else None,
            sums=batch.sums.copy(),
        )
        step = _Step(
            num_chunks=len(batch.starts),
            starts=_pointer(batch.starts),
            lengths=_pointer(batch.lengths),
            tokens=_pointer(batch.tokens),
            block_tables=_pointer(batch.block_tables),
            table_width=batch.block_tables.shape[1],
            num_rows=rows,
            rows=_pointer(batch.rows),
            history=_pointer(batch.history),
            bias_tokens=_pointer(batch.bias_tokens),
            biases=_pointer(batch.biases),
            num_pools=len(batch.pools),
            pools=_pointer(batch.pools),
            sampled=_pointer(result.tokens),
            logprobs=_pointer(result.logprobs),
            max_top_logprobs=most,
            top_tokens=_pointer(result.top_tokens),
            top_values=_pointer(result.top_values),
            logits=None if result.logits is None else _pointer(result.logits),
            pooled=_pointer(result.sums),
        )
        self._check(self._library.pagoda_step(self._handle, ctypes.byref(step)))
        return result

    def close(self) -> None:
        """Give memory and threads back; the model is of no use afterwards."""
        if self._handle is not None:
            self._library.pagoda_destroy(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()

    def _check(self, code: int) -> None:
        if code != 0:
            reason = self._reason()
            raise MemoryError(reason) if reason == _NO_MEMORY else NativeError(reason)

    def _reason(self) -> str:
        reason: bytes = self._library.pagoda_error()
        return reason.decode()


def best_instruction_set(library: ctypes.CDLL) -> InstructionSet:
    """What this machine's processor can run."""
    return InstructionSet(library.pagoda_instruction_set())


def _pointer(array: npt.NDArray[Any]) -> int:
    return array.ctypes.data
