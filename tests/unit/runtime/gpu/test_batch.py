"""Steps on the device: what is moved on in place is what would be filled anew."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.engine.step import Chunk
from pagoda_runtime.gpu.batch import Limits, Step, StepBuffers

from tests.unit.runtime.gpu.device import DEVICE

BLOCK = 4
LIMITS = Limits(tokens=24, sequences=6, blocks=10, block_size=BLOCK, num_heads=4, num_kv_heads=2)


def request(number: int, length: int) -> Request:
    made = Request(str(number), [number * 7 + i for i in range(length)], SamplingParams(9, seed=-5))
    made.block_table = [100 * number + i for i in range(LIMITS.blocks)]
    return made


def used(step: Step) -> dict[str, list]:
    """What the kernels read of a step."""
    decodes, prefills = step.decodes, step.prefills
    some = sorted({*decodes.sequence.tolist(), *prefills.sequence.tolist()} - {-1})
    blocks = [(-(-decodes.context[i] // BLOCK)).item() for i in some]
    return {
        "tokens": step.tokens.tolist(),
        "positions": step.positions.tolist(),
        "slots": step.slots.tolist(),
        "decodes": [decodes.sequence.tolist(), decodes.first.tolist()],
        "prefills": [prefills.sequence.tolist(), prefills.first.tolist()],
        "sequences": [
            [t[i].item() for t in (decodes.row, decodes.length, decodes.context)] for i in some
        ],
        "blocks": [decodes.blocks[i, :n].tolist() for i, n in zip(some, blocks, strict=True)],
        "samples": step.samples.tolist(),
        "seeds": step.parameters.seed.tolist()[: len(some)],
        "at": step.parameters.position.tolist()[: len(some)],
        "temperatures": step.parameters.temperature.tolist(),
    }


def add_token(requests: list[Request]) -> None:
    for each in requests:
        each.token_ids.append(1000 + each.num_tokens)


some_of_six = st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True)


@given(st.lists(st.tuples(some_of_six, st.booleans()), max_size=12))
def test_decodes_are_as_filled_anew(steps: list[tuple[list[int], bool]]) -> None:
    """Each step is of some of six requests, in some order; often the same ones again. Their last
    tokens are known, or still on the device.
    """
    requests = [request(i, 2 + i) for i in range(6)]
    buffers = StepBuffers(LIMITS, DEVICE)
    for chosen, known in [each for step in steps for each in (step, step, step)]:
        if any(requests[i].num_tokens >= LIMITS.blocks * BLOCK - 1 for i in chosen):
            return
        some = [requests[i] for i in chosen]
        if known:
            found = used(buffers.fill_decodes(some, 6))
        else:
            tokens = torch.tensor([r.num_tokens + 1000 for r in reversed(some)], dtype=torch.int32)
            places = list(reversed(range(len(some))))
            found = used(buffers.fill_ahead(some, 6, tokens.to(DEVICE), places))
            add_token(some)
        assert found == used(StepBuffers(LIMITS, DEVICE).fill_decodes(some, 6))
        chunks = [Chunk(r, r.num_tokens - 1, 1) for r in some]
        plain = used(StepBuffers(LIMITS, DEVICE).fill(chunks))
        for name in ("tokens", "positions", "slots", "sequences", "blocks", "at", "seeds"):
            assert found[name][: len(some)] == plain[name], name
        assert found["slots"][len(some) :] == [-1] * (6 - len(some))
        assert found["decodes"][0][len(some) :] == [-1] * (6 - len(some))
        if known:
            add_token(some)


def test_a_mixed_step() -> None:
    one, two = request(1, 6), request(2, 9)
    step = StepBuffers(LIMITS, DEVICE).fill([Chunk(one, 5, 1), Chunk(two, 2, 5)])
    assert step.tokens.tolist() == [12, 16, 17, 18, 19, 20]
    assert step.positions.tolist() == [5, 2, 3, 4, 5, 6]
    assert step.slots.tolist() == [405, 802, 803, 804, 805, 806]
    assert step.decodes.sequence.tolist() == [0]
    assert (step.prefills.sequence.tolist(), step.prefills.first.tolist()) == ([1], [0])
    assert step.decodes.row[:2].tolist() == [0, 1]
    assert step.decodes.context[:2].tolist() == [6, 7]
    assert step.samples.tolist() == [0], "the other has not reached its prompt's end"
    assert step.parameters.seed.dtype == torch.int64
    assert step.parameters.seed.tolist() == [-5]
