from pathlib import Path

import pytest

from dev.cluster import build
from dev.cluster.errors import ClusterError

FAKE_GO = """#!/bin/sh
echo "$PWD $*" >> "$LOG"
[ -z "$FAIL" ] || { echo "does not compile"; exit 1; }
while [ "$1" != -o ]; do shift; done
echo built > "$2"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Go; each of its calls is a line of the file returned."""
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(FAKE_GO)
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    monkeypatch.setenv("LOG", str(tmp_path / "calls"))
    monkeypatch.setenv("PAGODA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "calls"


def test_missing_binary_is_built_once_in_its_module(calls: Path) -> None:
    path = build.binary("kubectl")
    assert path.read_text() == "built\n"
    assert build.binary("kubectl") == path
    (call,) = calls.read_text().splitlines()
    assert call.startswith(f"{build.GOMOD / 'kubernetes'} build ")
    assert call.endswith(" k8s.io/kubernetes/cmd/kubectl")
    assert "version.gitVersion=v1.36.3" in call


def test_changed_pin_builds_anew(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build.binary("pause")
    gomod = tmp_path / "gomod"
    (gomod / "pause").mkdir(parents=True)
    (gomod / "pause" / "go.mod").write_text("module other\n")
    monkeypatch.setattr(build, "GOMOD", gomod)
    assert build.binary("pause") != path
    assert len(calls.read_text().splitlines()) == 2


def test_failed_build_shows_the_compiler_and_leaves_nothing(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(ClusterError, match="does not compile"):
        build.binary("pause")
    assert [p for p in build.cache_folder().rglob("*pause*") if p.suffix != ".lock"] == []
    monkeypatch.delenv("FAIL")
    assert build.binary("pause").exists()


def test_without_go_the_message_says_so(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ClusterError, match="install Go"):
        build.binary("pause")


def test_unknown_component_names_the_known_ones() -> None:
    with pytest.raises(ClusterError, match="there are: etcd, kube-apiserver"):
        build.binary("kubeapi")


def test_every_module_pins_what_its_components_are_built_from() -> None:
    for component in build.COMPONENTS.values():
        if component.package == ".":
            continue
        text = (build.GOMOD / component.module / "go.mod").read_text()
        assert component.package in text.partition("tool")[2]
    assert build.pinned_version("coredns", "github.com/coredns/coredns") == "v1.15.0"
    with pytest.raises(ClusterError, match="does not require"):
        build.pinned_version("coredns", "example.org/none")
