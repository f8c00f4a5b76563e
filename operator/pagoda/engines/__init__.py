"""The engine table: one file per engine, all launch facts in it. Pure.

Adding an engine is adding its file, its line here, and its name in `pagoda.api.workload.Engine`.
"""

from pagoda.engines import pagoda as _pagoda
from pagoda.engines import vllm as _vllm
from pagoda.engines.base import (
    Accelerator,
    EngineProfile,
    ExecProbe,
    HttpProbe,
    LaunchRequest,
)

ENGINES: dict[str, EngineProfile] = {
    profile.name: profile for profile in (_pagoda.PROFILE, _vllm.PROFILE)
}

__all__ = ["ENGINES", "Accelerator", "EngineProfile", "ExecProbe", "HttpProbe", "LaunchRequest"]
