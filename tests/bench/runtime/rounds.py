"""One round: the machine is probed, then every side does every piece of work, taking turns."""

import random
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.runtime import llama_cpp
from tests.bench.runtime.client import GREEDY, SAMPLED, Wave, WrongAnswerError, spread, wave
from tests.bench.runtime.model import Model
from tests.bench.runtime.probe import probe
from tests.bench.runtime.servers import CORES, SEQUENCES, SLOW, THREADS, Server, pinned, recipe
from tests.bench.runtime.vocabulary import Prompt

PROMPT = 256  # tokens
ANSWER = 128
SHARED = 1000  # tokens of the prefix that requests share
AFTER_SHARED = 16
LONE = 3  # requests one after another, their median counts
BATCHES = (8, SEQUENCES)
LLAMA_REPEATS = 2

# "pagoda" + " " + "rate 32" → what was measured, in tokens per second or seconds.
Figures = dict[str, float]


class Rounds:
    """Measures the servers, which are started, and llama-bench if `llama_bench`."""

    def __init__(self, model: Model, servers: Mapping[str, Server], llama_bench: bool) -> None:
        self._model = model
        self._servers = servers
        self._llama_bench = llama_bench
        self._random = random.Random()
        self._number = 0

    def warm(self, server: Server) -> None:
        """What a side does only the first time is not what is compared."""
        with server.awake():
            wave(server, self._prompts(SEQUENCES), 8)
            wave(server, self._prompts(1), 8)

    def round(self, names: Sequence[str]) -> Figures:
        """All figures of one round in which these servers take part."""
        servers = [self._servers[name] for name in names]
        shift = self._number % max(1, len(servers))  # none is always the first
        servers = servers[shift:] + servers[:shift]
        self._number += 1
        figures: Figures = {}
        for server in servers:
            figures |= self._of(server, self._prefill)
        # Between the pieces that they are compared with: minutes later the machine is another one.
        if self._llama_bench:
            figures |= self._measure_llama_bench()
        machine = probe()
        figures |= {"machine read": machine.read, "machine flops": machine.flops}
        for work in (self._lone, *map(self._batch, BATCHES)):
            for server in servers:
                figures |= self._of(server, work)
        if "pagoda" in self._servers:
            with self._servers["pagoda"].awake():
                figures |= self._sampled() | self._shared_prefix()
            figures |= self._replicas()
        return figures

    def _of(self, server: Server, work: Callable[[Server], Figures]) -> Figures:
        with server.awake():
            try:
                found = work(server)
            except WrongAnswerError as error:
                error.add_note(f"{server.name}, whose log ends with:\n{server.last_words}")
                raise
        return {f"{server.name} {what}": value for what, value in found.items()}

    def _measure_llama_bench(self) -> Figures:
        repeats = ["-r", str(LLAMA_REPEATS)]
        fresh = ["-p", str(PROMPT), "-n", str(ANSWER), *repeats]
        deep = ["-p", "0", "-n", str(ANSWER), "-d", str(PROMPT), *repeats]
        prefill, generation = llama_cpp.bench(self._model.gguf, THREADS, *fresh)
        (after_prompt,) = llama_cpp.bench(self._model.gguf, THREADS, *deep)
        return {
            "llama-bench prefill": prefill,
            "llama-bench decode": generation,
            "llama-bench decode after the prompt": after_prompt,
        }

    def _prefill(self, server: Server) -> Figures:
        """Prompt tokens per second, from the request to the first token: HTTP is inside."""
        waves = [wave(server, self._prompts(1), 1) for _ in range(LONE)]
        return {"prefill": PROMPT / statistics.median(w.ttft for w in waves)}

    def _lone(self, server: Server) -> Figures:
        repeats = 1 if server.name == SLOW else LONE
        waves = [wave(server, self._prompts(1), ANSWER) for _ in range(repeats)]
        return {
            "rate 1": statistics.median(w.rate for w in waves),
            "decode": statistics.median(w.decode_rate for w in waves),
            "ttft 1": statistics.median(w.ttft for w in waves),
        }

    def _batch(self, size: int) -> Callable[[Server], Figures]:
        def work(server: Server) -> Figures:
            result = self._full_wave(server, size, GREEDY)
            return {f"rate {size}": result.rate, f"ttft {size}": result.ttft}

        return work

    def _sampled(self) -> Figures:
        """Greedy again right beside it: a wave of minutes ago saw another machine."""
        server = self._servers["pagoda"]
        greedy = self._full_wave(server, SEQUENCES, GREEDY)
        sampled = self._full_wave(server, SEQUENCES, SAMPLED)
        return {"pagoda greedy again": greedy.rate, "pagoda sampled": sampled.rate}

    def _shared_prefix(self) -> Figures:
        cold: list[float] = []
        warm: list[float] = []
        for _ in range(LONE):
            prefix = self._model.vocabulary.prompt(self._random, SHARED).ids
            for times in (cold, warm):
                length = SHARED + AFTER_SHARED
                prompt = self._model.vocabulary.prompt(self._random, length, prefix)
                times.append(wave(self._servers["pagoda"], [prompt], 1).ttft)
        return {
            "pagoda ttft cold": statistics.median(cold),
            "pagoda ttft shared prefix": statistics.median(warm),
        }

    def _replicas(self) -> Figures:
        """A lone request on each of two replicas, beside one on the only replica: whether replicas
        on the same cores burn each other's time.
        """
        plain = recipe("pagoda", self._model)
        pairs = {
            "a core each": [pinned(plain, core) for core in CORES[:2]],
            "all cores": [plain, plain],
        }
        with self._servers["pagoda"].awake():
            figures = {"pagoda only replica": self._spread([self._servers["pagoda"]])}
        for name, recipes in pairs.items():
            with ExitStack() as ends, tempfile.TemporaryDirectory() as logs:
                replicas = []
                for i, one in enumerate(recipes):
                    replica = Server(f"replica {i}", one, Path(logs) / str(i))
                    ends.callback(replica.stop)
                    replica.start()
                    self.warm(replica)
                    replicas.append(replica)
                for replica in replicas:
                    ends.enter_context(replica.awake())
                figures[f"pagoda two replicas, {name}"] = self._spread(replicas)
        return figures

    def _spread(self, servers: Sequence[Server]) -> float:
        waves = [spread(servers, self._prompts(len(servers)), ANSWER) for _ in range(LONE)]
        return statistics.median(w.rate for w in waves)

    def _full_wave(self, server: Server, size: int, sampling: Mapping[str, float]) -> Wave:
        return wave(server, self._prompts(size), ANSWER, sampling)

    def _prompts(self, count: int) -> list[Prompt]:
        return [self._model.vocabulary.prompt(self._random, PROMPT) for _ in range(count)]
