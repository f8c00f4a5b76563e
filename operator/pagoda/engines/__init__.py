"""The engine table: one file per engine, all launch facts in it. Pure.

Adding an engine is adding its file, its line here, and its name in `pagoda.api.v1alpha1.Engine`.
"""

from pagoda.engines import pagoda as _pagoda
from pagoda.engines.base import EngineProfile, LaunchRequest

ENGINES: dict[str, EngineProfile] = {_pagoda.PROFILE.name: _pagoda.PROFILE}

__all__ = ["ENGINES", "EngineProfile", "LaunchRequest"]
