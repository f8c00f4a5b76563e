"""What each of the two processes loads: the API answers probes at once because it never imports
torch.
"""

import json
import logging
import subprocess
import sys

import pytest
from pagoda_runtime.logs import JsonFormatter


@pytest.mark.parametrize("module", ["pagoda_runtime.server.lifecycle", "pagoda_runtime.cli"])
def test_the_api_process_imports_no_torch(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    loaded = set(out.stdout.split())
    assert module in loaded
    assert not loaded & {"torch", "transformers", "numpy"}


def test_a_log_line_is_one_line_of_json() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x",
            logging.ERROR,
            __file__,
            1,
            "went %s",
            ("wrong",),
            sys.exc_info(),
            extra={"count": 3},
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["message"], fields["level"], fields["count"]) == ("went wrong", "error", 3)
    assert "ValueError" in fields["exception"]
