"""What we render for our own engine, judged by its command line."""

import pytest
from pagoda.engines import ENGINES, LaunchRequest
from pagoda_runtime.cli import _parser, to_config

PROFILE = ENGINES["pagoda"]


@pytest.mark.parametrize(("gpus", "tensor"), [(0, 1), (1, 1), (4, 2)])
def test_the_parser_takes_our_flags_as_we_mean_them(gpus, tensor):
    request = LaunchRequest(
        "/models/toy", "toy", 45, memory_bytes=8 << 30, cpus=2, gpus=gpus, tensor_parallel=tensor
    )
    config = to_config(_parser().parse_args([*PROFILE.arguments, *PROFILE.flags(request)]))
    assert (config.engine.model, config.served_model_names) == ("/models/toy", ("toy",))
    assert (config.host, config.port) == ("0.0.0.0", PROFILE.port)
    assert (config.drain_delay, config.shutdown_timeout) == (PROFILE.drain_delay_seconds, 45)
    assert config.engine.tensor_parallel_size == tensor
    assert config.engine.execution == ("cuda" if gpus else "auto")
