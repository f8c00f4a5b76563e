"""The command line's answers to what it cannot use."""

from pathlib import Path

import pytest
from pagoda.cli import main
from pagoda.kube.lease import LeaseTimes


@pytest.mark.parametrize("times", [(10, 7, 9), (10, 12, 1), (10, 7, 0)])
def test_lease_times_must_grow(times):
    duration, deadline, retry = times
    with pytest.raises(ValueError, match="retry < renew deadline < duration"):
        LeaseTimes(duration=duration, renew_deadline=deadline, retry=retry)


def test_engine_image_names_the_engines_there_are(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["operator", "--engine-image", "nosuch=x:1"])
    assert exit_.value.code == 2
    assert "with ENGINE one of pagoda" in capsys.readouterr().err


def test_without_an_api_server_it_says_what_to_set(capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert main(["operator", "--health-port", "0", "--metrics-port", "0"]) == 2
    assert "set KUBECONFIG or run in a pod" in capsys.readouterr().err


def test_crd_check(tmp_path: Path, capsys):
    stale = tmp_path / "crd.yaml"
    stale.write_text("old\n")
    assert main(["crd", "--check", str(stale)]) == 1
    assert "make generate" in capsys.readouterr().err
    assert main(["crd"]) == 0
    stale.write_text(capsys.readouterr().out)
    assert main(["crd", "--check", str(stale)]) == 0


def test_windows_must_leave_room_for_the_silence_that_rare_scrapes_bring(capsys):
    assert main(["metrics-server", "--scrape-seconds", "20", "--window-seconds", "90"]) == 2
    error = capsys.readouterr().err
    assert "from there to 86 s" in error
    assert "silent for 64 s" in error


@pytest.mark.parametrize(("short", "long"), [("0", "90"), ("30", "20"), ("15", "600")])
def test_windows_that_cannot_be_kept_are_refused(short, long, capsys):
    assert main(["metrics-server", "--short-window-seconds", short, "--window-seconds", long]) == 2
    assert "the long one from there to 134 s" in capsys.readouterr().err
