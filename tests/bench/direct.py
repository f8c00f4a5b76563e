"""The engine without a server: `python -m tests.bench.direct CONFIG_JSON`, an EngineConfig.

To each line of input, [[token ids of a prompt, …], length of the answers], it answers with the seconds
from the first prompt added to the last token. No torch at the top: the server's engine has none either.
"""

import json
import logging
import sys
import time

import msgspec
from pagoda_runtime.config import EngineConfig
from pagoda_runtime.engine.build import build_engine
from pagoda_runtime.engine.core import EngineCore
from pagoda_runtime.engine.request import Request, SamplingParams


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    core, _, _ = build_engine(msgspec.json.decode(sys.argv[1], type=EngineConfig))
    for line in sys.stdin:
        print(measure(core, *json.loads(line)), flush=True)


def measure(core: EngineCore, prompts: list[list[int]], tokens: int) -> float:
    """Seconds for greedy answers to all of them."""
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0)
    begun = time.monotonic()
    for number, ids in enumerate(prompts):
        core.add(Request(str(number), ids, sampling, begun))
    written = 0
    while core.has_work:
        written += sum(len(delta.token_ids) for delta in core.step()[0])
    seconds = time.monotonic() - begun
    assert written == len(prompts) * tokens, f"{written} tokens"
    return seconds


if __name__ == "__main__":
    main()
