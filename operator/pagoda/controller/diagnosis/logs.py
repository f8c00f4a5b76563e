"""What an engine's last words mean: known texts of engines, by the reason they stand for."""

import re

from pagoda.api import conditions as reasons
from pagoda.api.conditions import Reason
from pagoda.controller.diagnosis.text import shorten, shorten_tail

# The first that is found counts, so that an out-of-memory error wins over what follows from it.
KNOWN: tuple[tuple[re.Pattern[str], Reason], ...] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        # torch on CUDA and ROCm; cuBLAS; vLLM when another process holds the GPU's memory.
        (r"(?:CUDA|HIP) out of memory", reasons.GPU_OUT_OF_MEMORY),
        (r"torch\.(?:cuda\.)?OutOfMemoryError", reasons.GPU_OUT_OF_MEMORY),
        (r"(?:CUDA|HIP) error: out of memory", reasons.GPU_OUT_OF_MEMORY),
        (r"CUBLAS_STATUS_ALLOC_FAILED", reasons.GPU_OUT_OF_MEMORY),
        (r"Free memory on device .* is less than desired GPU memory", reasons.GPU_OUT_OF_MEMORY),
        # vLLM, old and new; Pagoda's runtime (engine/kv_size.py, gpu/size.py).
        (r"No available memory for the cache blocks", reasons.MODEL_TOO_LARGE),
        (r"max seq len \(\d+\) is larger than the maximum number", reasons.MODEL_TOO_LARGE),
        (r"larger than the available KV cache memory", reasons.MODEL_TOO_LARGE),
        (r"one request of \d+ tokens needs \d+ bytes of KV cache", reasons.MODEL_TOO_LARGE),
        # Pagoda's runtime (server/engine_client.py); torch on CPU and Python.
        (r"out of memory: the kernel killed the engine process", reasons.OUT_OF_MEMORY),
        (r"DefaultCPUAllocator: (?:can't allocate|not enough) memory", reasons.OUT_OF_MEMORY),
        (r"(?<!OutOf)MemoryError\b", reasons.OUT_OF_MEMORY),
        (r"Cannot allocate memory", reasons.OUT_OF_MEMORY),
        # Pagoda's runtime (model/loader.py, model/spec.py); vLLM.
        (r"holds only pickled weights", reasons.MODEL_FORMAT_UNSUPPORTED),
        (r"holds no model\.safetensors", reasons.MODEL_FORMAT_UNSUPPORTED),
        (r"quantized checkpoints are not supported", reasons.MODEL_FORMAT_UNSUPPORTED),
        (r"rchitectures? .* (?:is|are) not supported", reasons.MODEL_FORMAT_UNSUPPORTED),
    )
)
# vLLM's server ends with a traceback that only points at the engine's, further up.
POINTS_FURTHER_UP = re.compile(r"See root cause above|Traceback \(most recent call last\)")
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")


def known_cause(text: str) -> tuple[Reason, str] | None:
    """Find the reason that a log names, and the line that does."""
    for pattern, reason in KNOWN:
        if match := pattern.search(text):
            start = text.rfind("\n", 0, match.start()) + 1
            end = text.find("\n", match.end())
            return reason, shorten(text[start : end if end >= 0 else None])
    return None


def tells_enough(termination_message: str) -> bool:
    """Tell whether the log could not say more."""
    if known_cause(termination_message):
        return True
    return bool(termination_message) and not POINTS_FURTHER_UP.search(termination_message)


def last_words(text: str) -> str:
    """Give the end of a log; of a Python traceback only the error it ends in."""
    errors = re.findall(
        r"^(?:\(.*?\) )?(?:ERROR .*?\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$",
        text,
        re.MULTILINE,
    )
    if errors and POINTS_FURTHER_UP.search(text):
        return shorten(errors[0])
    return shorten_tail(text)
