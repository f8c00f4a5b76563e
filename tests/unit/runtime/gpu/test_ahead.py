"""What was computed ahead counts for whom it was computed, and not after a preemption."""

import pytest
import torch
from pagoda_runtime.engine.request import PoolingParams, Request, SamplingParams
from pagoda_runtime.engine.step import Chunk
from pagoda_runtime.gpu.ahead import Ahead, TokenFetcher

from tests.unit.runtime.gpu.device import DEVICE


@pytest.fixture
def requests() -> list[Request]:
    return [Request(str(i), [1] * (i + 3), SamplingParams(9)) for i in range(3)]


def ahead(requests: list[Request]) -> Ahead:
    return Ahead(requests, torch.zeros(4), lambda: [0] * 4)


def decode(request: Request) -> Chunk:
    return Chunk(request, request.num_tokens - 1, 1)


def test_the_next_decode_is_known(requests: list[Request]) -> None:
    computed = ahead(requests[1:])
    for request in requests:
        request.token_ids.append(5)
    assert [computed.row_of(decode(request)) for request in requests] == [None, 0, 1]


def test_nothing_else_is(requests: list[Request]) -> None:
    one, two, three = requests
    computed = ahead(requests)
    assert computed.row_of(decode(one)) is None, "its token has not been added"
    two.token_ids.append(5)
    assert computed.row_of(Chunk(two, 0, two.num_tokens)) is None, "it is computed again, whole"
    two.num_preemptions += 1
    assert computed.row_of(decode(two)) is None, "its keys and values are in lost blocks"
    three.token_ids += [5, 6]
    assert computed.row_of(decode(three)) is None, "that is the one after the next"
    namesake = Request("2", [1] * 6, PoolingParams("last"))
    assert computed.row_of(Chunk(namesake, 5, 1)) is None


def test_two_fetches_at_a_time() -> None:
    fetch = TokenFetcher(4, DEVICE)
    first = fetch(torch.tensor([1, 2, 3], dtype=torch.int32, device=DEVICE))
    second = fetch(torch.tensor([4], dtype=torch.int32, device=DEVICE))
    assert first() == [1, 2, 3]
    third = fetch(torch.tensor([5, 6], dtype=torch.int32, device=DEVICE))
    assert (second(), third()) == ([4], [5, 6])
