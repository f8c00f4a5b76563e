"""The sides that serve HTTP: how each is started, and that all but one stand still."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dev import locked, vllm_cpu
from dev.packages import require
from tests.bench.runtime import llama_cpp
from tests.bench.runtime.model import Model
from tests.bench.runtime.vocabulary import Prompt
from tests.pagoda_process import free_port

CORES = tuple(sorted(os.sched_getaffinity(0)))
THREADS = len(CORES)
MAX_MODEL_LEN = 2048
SEQUENCES = 32  # at once, on every side
KV_GIB = 2  # of keys and values, on every side that asks
_TCMALLOC = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"


@dataclass(frozen=True)
class Recipe:
    """What a side is started with. `{port}` in the command is filled in."""

    command: Sequence[str]
    health: str
    model: str  # the name it serves
    folder: Path | None = None  # to start it in
    environment: Mapping[str, str] = field(default_factory=dict)
    takes_ids: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields of each request

    def body(self, prompt: Prompt, tokens: int, sampling: Mapping[str, float]) -> dict[str, Any]:
        """A request for an answer of exactly `tokens` tokens."""
        return {
            "model": self.model,
            "prompt": prompt.ids if self.takes_ids else prompt.text,
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling,
            **self.extra,
        }


def recipe(side: str, model: Model) -> Recipe:
    """How to start one of SERVERS."""
    return _RECIPES[side](model)


def pinned(recipe: Recipe, core: int) -> Recipe:
    """The same on one core only."""
    return replace(recipe, command=["taskset", "--cpu-list", str(core), *recipe.command])


def _pagoda(model: Model, *flags: str) -> Recipe:
    command = [sys.executable, "-m", "pagoda_runtime", "serve", "--model", str(model.folder)]
    command += ["--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning"]
    command += ["--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(SEQUENCES)]
    command += ["--kv-cache-memory-bytes", str(KV_GIB << 30), "--drain-delay", "0", *flags]
    return Recipe(command, "/readyz", str(model.folder), extra={"ignore_eos": True})


def _pagoda_int8(model: Model) -> Recipe:
    return _pagoda(model, "--quantization", "int8")


def _vllm(model: Model) -> Recipe:
    # `vllm serve` looks for a package named vllm, and this one is named vllm-cpu.
    module = "vllm.entrypoints.openai.api_server"
    command = [str(vllm_cpu.environment() / "bin" / "python"), "-m", module]
    command += ["--model", str(model.folder), "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--dtype", "bfloat16", "--max-model-len", str(MAX_MODEL_LEN)]
    require({"libtcmalloc-minimal4": [_TCMALLOC]})
    openmp = locked.packages("bench-runtime") / "lib" / "libiomp5.so"
    environment = {
        # As its documentation advises; without the second one it is 10 to 15 % slower.
        "LD_PRELOAD": f"{_TCMALLOC}:{openmp}",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        # By itself it would leave one core to its HTTP server, half of this machine.
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, CORES)),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    extra = {"ignore_eos": True}
    return Recipe(command, "/health", str(model.folder), environment=environment, extra=extra)


def _llama_server(model: Model) -> Recipe:
    flags = ["--model", str(model.gguf), "--host", "127.0.0.1", "--port", "{port}"]
    flags += ["--threads", str(THREADS), "--parallel", str(SEQUENCES)]
    flags += ["--ctx-size", str(SEQUENCES * 512)]  # a slot for each; it needs 384 tokens
    flags += ["--cache-ram", "0"]  # nothing comes twice: no time lost with keeping it
    command, folder = llama_cpp.run_on_its_libraries("llama-server", *flags)
    extra = {"ignore_eos": True}
    return Recipe(command, "/health", "any", folder=folder, extra=extra)


def _transformers(model: Model) -> Recipe:
    # vLLM's environment has all that `transformers serve` needs but one package.
    program = vllm_cpu.environment() / "bin" / "transformers"
    command = [str(program.with_name("python")), str(program), "serve", str(model.folder)]
    command += ["--continuous-batching", "--device", "cpu", "--dtype", "bfloat16"]
    command += ["--cb-block-size", "256", "--cb-num-blocks", str(2 * SEQUENCES)]
    command += ["--host", "127.0.0.1", "--port", "{port}"]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(THREADS),
        "PYTHONPATH": str(locked.packages("bench-runtime")),
    }
    return Recipe(command, "/health", str(model.folder), environment=environment, takes_ids=False)


_RECIPES = {
    "pagoda": _pagoda,
    "pagoda int8": _pagoda_int8,
    "vllm-cpu": _vllm,
    "llama-server": _llama_server,
    "transformers": _transformers,
}
SERVERS = tuple(_RECIPES)
SLOW = "transformers"  # minutes for one round: it takes part in the last one only


class Server:
    """One side's processes. They run only inside `awake()`: else they are stopped by SIGSTOP, and
    can neither spin nor do housekeeping while another side is measured.
    """

    def __init__(self, name: str, recipe: Recipe, log: Path) -> None:
        self.name = name
        self.recipe = recipe
        self.port = 0
        self.seconds_to_ready = 0.0
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped again."""
        return self._process is not None

    @property
    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:]

    def start(self, patience: float = 600) -> None:
        """Start it, wait until it is ready, and let it stand still.

        Raises:
            RuntimeError: it ended, or is not ready within `patience` seconds.
        """
        self.port = free_port()
        command = [part.replace("{port}", str(self.port)) for part in self.recipe.command]
        began = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.recipe.folder,
                env=os.environ | self.recipe.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > began + patience:
                words = self.last_words
                self.stop()
                raise RuntimeError(f"{self.name} does not get ready:\n{words}")
            time.sleep(0.02)
        self.seconds_to_ready = time.monotonic() - began
        self._signal(signal.SIGSTOP)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def stop(self) -> None:
        """End it with all its processes."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):  # it ended by itself; whoever needs it will see
            os.killpg(self._process.pid, number)

    def _is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.port}{self.recipe.health}"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
