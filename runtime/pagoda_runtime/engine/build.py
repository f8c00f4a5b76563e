"""From flags to an engine: read the model's shape, load an execution of the model with its cache, put
the scheduler in front of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pagoda_runtime import devices
from pagoda_runtime.config import ConfigError, EngineConfig, Rank
from pagoda_runtime.engine.block_pool import BlockPool
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.kv_size import KVSize
from pagoda_runtime.engine.progress import LoadProgress
from pagoda_runtime.engine.scheduler import Scheduler
from pagoda_runtime.engine.step import ExecutionUnavailableError, Runner
from pagoda_runtime.model.shard import Shard
from pagoda_runtime.model.spec import DecoderSpec, choose_dtype, read_spec

log = logging.getLogger("pagoda.engine")

ALONE = Rank()


def build_engine(
    config: EngineConfig,
    tell: Callable[[int, int], None] = lambda loaded, total: None,
    rank: Rank = ALONE,
) -> tuple[EngineCore, KVSize, DecoderSpec]:
    """Load the model and put the engine around it; ConfigError says what cannot work.

    `tell` is given the bytes of weights loaded, and of all, as loading goes on. With
    --tensor-parallel-size every rank builds the same engine, around its part of the model: given the
    same requests and the same times of steps, they make the same decisions, so that their steps meet.
    """
    spec = read_spec(Path(config.model))
    shard = Shard(spec, rank.index, config.tensor_parallel_size)
    progress = LoadProgress(shard.spec, choose_dtype(config.dtype, spec), tell)
    runner, size = _load(config, shard, rank, progress)
    scheduler = Scheduler(
        BlockPool(size.num_blocks, config.block_size),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=size.max_model_len,
        max_num_queued_reqs=config.queued_reqs_bound,
        max_num_queued_tokens=config.max_num_queued_tokens,
        enable_prefix_caching=config.enable_prefix_caching,
        window=spec.largest_window,
        ahead=runner.looks_ahead,
    )
    return EngineCore(runner, scheduler, seed=config.seed), size, spec


Loaded = tuple[Runner, KVSize]


def _cuda(config: EngineConfig, shard: Shard, rank: Rank, progress: LoadProgress) -> Loaded:
    if config.execution == "auto" and not devices.has_gpu():
        raise ExecutionUnavailableError("there is no GPU")
    from pagoda_runtime.gpu import runner

    return runner.load(config, shard, rank, progress)


def _native(config: EngineConfig, shard: Shard, rank: Rank, progress: LoadProgress) -> Loaded:
    if shard.size > 1:
        raise ExecutionUnavailableError("it has no tensor parallelism")
    from pagoda_runtime.native import runner

    return runner.load(config, shard.whole, progress)


def _torch(config: EngineConfig, shard: Shard, rank: Rank, progress: LoadProgress) -> Loaded:
    # Seconds to import, so only if this execution is used.
    from pagoda_runtime.engine import torch_runner

    return torch_runner.load(config, shard, rank, progress)


# By the values of --execution, fastest first. Each loads the weights, sizes and allocates the KV
# blocks, imports what it needs itself, and raises ExecutionUnavailableError where it cannot run.
EXECUTIONS: dict[str, Callable[[EngineConfig, Shard, Rank, LoadProgress], Loaded]] = {
    "cuda": _cuda,
    "native": _native,
    "torch": _torch,
}


def _load(config: EngineConfig, shard: Shard, rank: Rank, progress: LoadProgress) -> Loaded:
    """The execution that was asked for; for `auto` the first that can run here."""
    names = list(EXECUTIONS) if config.execution == "auto" else [config.execution]
    reasons = []
    for name in names:
        try:
            loaded = EXECUTIONS[name](config, shard, rank, progress)
        except ExecutionUnavailableError as error:
            reasons.append(f"{name}: {error}")
            continue
        log.info("execution chosen", extra={"execution": name, "unavailable": reasons})
        return loaded
    raise ConfigError(f"the model cannot be executed here ({'; '.join(reasons)})")
