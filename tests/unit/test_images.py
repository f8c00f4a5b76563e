"""Image names follow content; a build gets this machine's pip settings as secrets."""

from dataclasses import replace
from pathlib import Path

import pytest

from dev.images import ImageError, pip_settings, reference, spec


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    target = spec.TARGETS["operator"]
    spec.snapshot(target, tmp_path)
    return tmp_path


def test_key_changes_with_any_source(tree: Path) -> None:
    target = spec.TARGETS["operator"]
    before = spec.content_key(target, tree)
    assert before == spec.content_key(target, tree)

    source = tree / "operator/pagoda/__init__.py"
    source.write_text(source.read_text() + "\n")
    changed = spec.content_key(target, tree)
    assert changed != before

    (tree / "operator/pagoda/new.py").write_text("")
    assert spec.content_key(target, tree) != changed


@pytest.mark.parametrize("left_behind", ["__pycache__/x.cpython-311.pyc", "libx.so"])
def test_key_ignores_what_tools_leave_behind(tree: Path, left_behind: str) -> None:
    target = spec.TARGETS["operator"]
    before = spec.content_key(target, tree)
    cached = tree / "operator/pagoda" / left_behind
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(b"x")
    assert spec.content_key(target, tree) == before


def test_key_changes_with_the_base(tree: Path) -> None:
    target = spec.TARGETS["operator"]
    base = target.bases["PYTHON_IMAGE"]
    other = replace(base, packages=(*base.packages, "jq"))
    assert other.key != base.key
    changed = replace(target, bases={"PYTHON_IMAGE": other})
    assert spec.content_key(changed, tree) != spec.content_key(target, tree)


def test_operator_and_runtime_do_not_share_sources() -> None:
    operator, runtime = spec.TARGETS["operator"], spec.TARGETS["runtime"]
    assert "operator" in operator.sources
    assert "operator" not in runtime.sources
    assert "runtime" not in operator.sources


def test_reference_of_an_unknown_image() -> None:
    with pytest.raises(ImageError, match="operator, runtime"):
        reference("nonsense")


def test_every_source_reaches_the_build(tree: Path) -> None:
    """What is hashed is what .dockerignore lets through."""
    patterns = [
        line.removeprefix("!")
        for line in (spec.ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for target in spec.TARGETS.values():
        for source in set(target.sources) - {"Dockerfile", ".dockerignore"}:
            assert any(Path(source).match(pattern) for pattern in patterns), source


def test_pip_settings_become_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip_settings, "_FILES", ())
    bundle, conf = tmp_path / "ca.crt", tmp_path / "mine.conf"
    bundle.write_text("certificates")
    conf.write_text("[global]\nindex-url = https://file.example/simple\ntimeout = 3\n")
    environment = {
        "PIP_CONFIG_FILE": str(conf),
        "PIP_INDEX_URL": "https://user:word@mirror.example/simple",
        "SSL_CERT_FILE": str(bundle),
        "UNRELATED": "x",
    }
    secrets = pip_settings.write_secrets(tmp_path, environment)
    assert secrets["ca_bundle"] == bundle
    written = secrets["pip_conf"]
    assert written.stat().st_mode & 0o077 == 0
    assert written.read_text().splitlines() == [
        "[global]",
        "index-url = https://user:word@mirror.example/simple",
        "timeout = 3",
        f"cert = {pip_settings.CA_IN_BUILD}",
    ]


def test_a_plain_machine_needs_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip_settings, "_FILES", ())
    assert pip_settings.write_secrets(tmp_path, {"HOME": "/root"}) == {}


def test_only_wheel_folders_with_wheels_are_mounted(tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "x.whl").write_text("")
    options = {"find-links": f"https://example.com/wheels {full} {empty} {tmp_path}/missing"}
    assert pip_settings.wheel_folders(options) == [full]
