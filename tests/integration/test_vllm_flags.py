"""What we render for vLLM, judged by the argument parser of the real one."""

import json
import os
import subprocess

import pytest
from pagoda.engines import ENGINES, LaunchRequest
from pagoda.engines.vllm import VERSION

from dev.locked import REQUIREMENTS
from dev.vllm_cpu import environment

PROFILE = ENGINES["vllm"]
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser(allow_abbrev=False))
for line in sys.stdin:
    try:
        parsed = vars(parser.parse_args(json.loads(line)))
    except SystemExit:
        parsed = None
    print("RESULT", json.dumps(parsed, default=str), flush=True)
"""

ON_CPU = LaunchRequest("/models/toy", "toy", drain_seconds=45, memory_bytes=8 << 30, cpus=2)
ON_GPUS = LaunchRequest(
    "/models/toy", "toy", 0, memory_bytes=64 << 30, cpus=16, gpus=4, tensor_parallel=4
)


# The import alone takes 20 s of processor time; cores are shared.
@pytest.mark.timeout(300)
def test_the_parser_takes_our_flags_as_we_mean_them():
    cases = [PROFILE.flags(ON_CPU), PROFILE.flags(ON_GPUS), [*PROFILE.flags(ON_CPU), "--no-such"]]
    done = subprocess.run(
        [environment() / "bin" / "python", "-c", PARSE],
        input="".join(json.dumps(case) + "\n" for case in cases),
        env={"PATH": os.environ["PATH"], **PROFILE.env(ON_CPU)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    on_cpu, on_gpus, wrong = (json.loads(line.removeprefix("RESULT ")) for line in lines)
    assert wrong is None
    for parsed in (on_cpu, on_gpus):
        assert (parsed["model"], parsed["served_model_name"]) == ("/models/toy", ["toy"])
        assert (parsed["host"], parsed["port"]) == ("0.0.0.0", PROFILE.port)
        assert parsed["enable_server_load_tracking"] is True
    assert (on_cpu["shutdown_timeout"], on_gpus["shutdown_timeout"]) == (45, 0)
    assert (on_cpu["tensor_parallel_size"], on_gpus["tensor_parallel_size"]) == (1, 4)


def test_default_images_are_of_the_version_that_is_tested():
    assert f"\nvllm-cpu=={VERSION} \\\n" in (REQUIREMENTS / "vllm-cpu.txt").read_text()
    assert all(image.endswith(f":v{VERSION}") for image in PROFILE.images.values())
