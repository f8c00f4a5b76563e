"""The kernel chooses what `engine.sampler` chooses: by the same number, from the same weights."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pagoda_runtime.engine import sampler
from pagoda_runtime.engine.request import Request, SamplingParams
from pagoda_runtime.gpu.kernels import sampling

from tests.unit.runtime.gpu.device import DEVICE

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")

params = st.builds(
    SamplingParams,
    max_tokens=st.just(1),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 0, 1, 3, 40, 1000]),
    top_p=st.sampled_from([1.0, 1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)


def choose(logits: torch.Tensor, requests: list[Request]) -> list[int]:
    def column(values: list, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=DEVICE)

    wanted = [r.sampling for r in requests]
    parameters = sampling.Parameters(
        temperature=column([p.temperature for p in wanted], torch.float32),
        top_p=column([p.top_p for p in wanted], torch.float32),
        min_p=column([p.min_p for p in wanted], torch.float32),
        top_k=column([p.top_k for p in wanted], torch.int32),
        seed=column([p.seed for p in wanted], torch.int64),
        position=column([r.num_tokens for r in requests], torch.int64),
    )
    tokens = torch.full((len(requests),), -7, dtype=torch.int32, device=DEVICE)
    sampling.sample(logits.to(DEVICE), parameters, tokens)
    return tokens.tolist()


def requests_of(wanted: list[SamplingParams]) -> list[Request]:
    return [Request(str(i), [0] * (i + 1), p) for i, p in enumerate(wanted)]


def check(logits: torch.Tensor, wanted: list[SamplingParams]) -> None:
    requests = requests_of(wanted)
    expected = [one.token for one in sampler.sample(logits, requests)]
    assert choose(logits, requests) == expected


@settings(max_examples=500 if DEVICE.type == "cuda" else 25)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1, 5, 300, 1024, 1500]),
    st.lists(params, min_size=1, max_size=3),
)
def test_equals_the_reference(seed: int, vocab: int, wanted: list[SamplingParams]) -> None:
    logits = torch.randn(len(wanted), vocab, generator=torch.Generator().manual_seed(seed)) * 3
    check(logits, wanted)


@settings(max_examples=100 if DEVICE.type == "cuda" else 15)
@given(st.integers(0, 2**31), st.lists(params, min_size=2, max_size=3))
@example(0, [SamplingParams(max_tokens=1, top_k=k, top_p=0.6, seed=k) for k in (2, 3)])
def test_of_equal_weights_lower_tokens_stay(seed: int, wanted: list[SamplingParams]) -> None:
    levels = torch.tensor([-1.0, 0.0, 0.0, 2.0])
    picks = torch.randint(4, (len(wanted), 60), generator=torch.Generator().manual_seed(seed))
    check(levels[picks], wanted)


def test_tokens_without_a_chance() -> None:
    """Logits of minus infinity, and one that is all there is."""
    logits = torch.full((2, 40), -float("inf"))
    logits[0, 17], logits[1, :2] = 3.0, 0.0
    for seed in range(20):
        one, other = choose(logits, requests_of([SamplingParams(max_tokens=1, seed=seed)] * 2))
        assert one == 17
        assert other in (0, 1)
