"""The source root `operator/` must never shadow the standard library's `operator`."""

import operator
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_stdlib_operator_is_the_one_imported():
    assert Path(operator.__file__).parent == Path(sysconfig.get_path("stdlib"))


def test_source_roots_are_no_packages():
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "runtime" / "__init__.py").exists()
    assert not (ROOT / "tests" / "operator").exists()
