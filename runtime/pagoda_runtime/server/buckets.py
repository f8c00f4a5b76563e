"""Upper bounds of the histograms: vLLM's, so that its dashboards carry over, and between them finer
ones below 10 ms, where a fast engine lives.
"""

from __future__ import annotations

# Seconds.
_SHORT = (0.001, 0.0025, 0.005, 0.01)
_LONG = (1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
FIRST_TOKEN = (
    *(*_SHORT, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(*_LONG, 160.0, 640.0, 2560.0),
)
INTER_TOKEN = (*_SHORT, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, *_LONG)
STEP = INTER_TOKEN
REQUEST = (
    *(0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0),
    *(50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

# Tokens. vLLM's end at the model's context length, which is not known before it is loaded.
TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

# Answers to one prompt.
N = (1, 2, 5, 10, 20)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
