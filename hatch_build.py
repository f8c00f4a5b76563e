"""Puts the compiled CPU execution of the runtime into the wheel, or into the checkout for an
editable install.
"""

import importlib.util
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCRIPT = "runtime/csrc/build.py"
LIBRARY = "runtime/pagoda_runtime/native/libpagoda.so"


class NativeBuildHook(BuildHookInterface[Any]):
    """Without a compiler, and for the operator alone, the package is pure Python: the runtime then
    executes models in torch. A library that another build stage left in place is taken as it is.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before files are collected."""
        script, library = Path(self.root, SCRIPT), Path(self.root, LIBRARY)
        if not script.exists():
            return
        build = _load(script)
        if build.supported():
            build.build(library)
        elif not library.exists():
            self.app.display_warning("no C++ compiler: the runtime will execute models in torch")
            return
        if version != "editable":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"].append(LIBRARY)


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("pagoda_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
