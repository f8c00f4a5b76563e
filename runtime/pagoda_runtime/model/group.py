"""The processes that compute one model together: ranks of a tensor-parallel group, on one machine.

Each layer adds up what the ranks made of it, twice (see `model.shard`). On CPUs gloo does that, on GPUs
NCCL, whose sums can be part of a CUDA graph.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pagoda_runtime.config import Rank

# Who waits for a rank that will never come is ended from outside, by whoever sees that one die or hang
# (server.ranks). Until then it may be loading.
_PATIENCE = timedelta(hours=2)


class Group:
    """A group of one rank, which has nothing to exchange."""

    size = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, in its place; bitwise the same on all of them."""
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        """Rank 0's x, in the place of every rank's."""
        return x

    def minimum(self, numbers: Sequence[int]) -> Sequence[int]:
        """Of each number the smallest that a rank has."""
        return numbers


class Distributed(Group):
    """Several ranks, through the process group that torch knows as the default one."""

    def __init__(self) -> None:
        self.size = dist.get_world_size()

    def all_reduce(self, x: Tensor) -> Tensor:
        """See `Group`."""
        dist.all_reduce(x)
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        """See `Group`."""
        dist.broadcast(x, src=0)
        return x

    def minimum(self, numbers: Sequence[int]) -> Sequence[int]:
        """See `Group`."""
        numbers_here = torch.tensor(numbers)
        dist.all_reduce(numbers_here, op=dist.ReduceOp.MIN)
        return [int(number) for number in numbers_here]


def join(rank: Rank, size: int, device: torch.device) -> Group:
    """Wait for the other ranks; → the group, for tensors on the CPU and on this device."""
    if size == 1:
        return Group()
    # All ranks are here, and loopback is the one interface that every container has.
    for backend in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")
    first = rank.index == 0
    store = dist.TCPStore(  # type: ignore[attr-defined]  # public, but not in its __all__
        "127.0.0.1",
        rank.port,
        size,
        is_master=first,
        timeout=_PATIENCE,
        master_listen_fd=rank.listener if first else None,
    )
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=store,
        rank=rank.index,
        world_size=size,
        timeout=_PATIENCE,
        device_id=device if on_gpu else None,
    )
    return Distributed()
