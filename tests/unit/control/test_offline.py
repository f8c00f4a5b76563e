"""`pagoda render` and `pagoda diff`."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pagoda.cli import main

from tests.builders import live, manifest, only, plan

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, *objects) -> str:
        file = tmp_path / name
        file.write_text(yaml.safe_dump_all(objects))
        return str(file)

    return write


def cluster(made, **changes):
    """A dump of a cluster: server defaults, others' fields, no managed fields."""
    items = []
    for obj in made.objects:
        item = yaml.safe_load(yaml.safe_dump(live(obj)))
        if item["kind"] == "Deployment":
            item["spec"] |= {"replicas": 2, "minReadySeconds": 0} | changes
            pod = item["spec"]["template"]["spec"]
            pod |= {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"}
            pod["containers"][0]["resources"]["limits"]["cpu"] = "1000m"
        if item["kind"] == "PodDisruptionBudget":
            item["spec"].pop("minAvailable", None)
            item["spec"]["maxUnavailable"] = 1  # as there are two
        items.append(item)
    return {"apiVersion": "v1", "kind": "List", "items": items}


def test_renders_every_example(capsys):
    assert main(["render", "-f", str(EXAMPLES / "quickstart.yaml"), "-n", "models"]) == 0
    out, err = capsys.readouterr()
    objects = list(yaml.safe_load_all(out))
    assert objects[0]["kind"] == "ServiceAccount"
    assert {o["metadata"]["namespace"] for o in objects} == {"models"}
    assert err == "passed over: PersistentVolumeClaim models\n"
    assert "&id" not in out
    assert main(["render", "-f", str(EXAMPLES / "full.yaml")]) == 0


def test_fixed_count_and_image_show(write, capsys):
    file = write("a.yaml", manifest(replicas=3))
    assert main(["render", "-f", file, "--engine-image", "pagoda=reg/x:9"]) == 0
    deployment = next(
        o for o in yaml.safe_load_all(capsys.readouterr().out) if o["kind"] == "Deployment"
    )
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "reg/x:9"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"replicaz": 1}, "toy: spec.replicaz: unknown field; did you mean replicas?"),
        ({"engine": {"env": [{"nam": "x"}]}}, "env[0].nam: unknown field; did you mean name?"),
        ({"engine": {"env": [{}]}}, "toy: spec.engine.env[0].name: Field required"),
        ({"replicas": "2"}, "toy: spec.replicas: Input should be a valid integer"),
        ({"replicas": -1}, "toy: spec.replicas: Input should be greater than or equal to 0"),
        ({"model": {"uri": "nosuch://x"}}, "toy: "),
        ({"podTemplate": {"spec": {"containers": [{}]}}}, "spec.containers[0].name is missing"),
    ],
)  # fmt: skip
def test_invalid_spec_is_named(write, capsys, fields, message):
    assert main(["render", "-f", write("a.yaml", manifest(**fields))]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


@pytest.mark.parametrize(("text", "message"), [("{", "is not YAML"), ("a: 1", "no LLMDeployment")])
def test_unusable_file(tmp_path: Path, capsys, text, message):
    (tmp_path / "a.yaml").write_text(text)
    assert main(["render", "-f", str(tmp_path / "a.yaml")]) == 1
    assert message in capsys.readouterr().err


def diff(write, old, new, *flags) -> int:
    return main(["diff", "-f", write("new.yaml", new), "--from", write("old.yaml", old), *flags])


def test_same_is_0_and_another_argument_restarts_pods(write, capsys):
    assert diff(write, manifest(), manifest()) == 0
    assert capsys.readouterr().out == "Pods restart: no\n"
    assert diff(write, manifest(), manifest(engine={"args": ["--seed=1"]})) == 1
    out = capsys.readouterr().out
    assert "--- Deployment/toy (before)\n+++ Deployment/toy (after)" in out
    assert "+        - --seed=1" in out
    assert out.endswith("Pods restart: yes, changed: spec.containers[engine].args\n")


def test_count_and_port_restart_nothing(write, capsys):
    service = {"service": {"port": 8080}}
    assert diff(write, manifest(replicas=1), manifest(replicas=2, expose=service)) == 1
    out = capsys.readouterr().out
    assert "-  replicas: 1\n+  replicas: 2" in out
    assert "+  - name: http\n" not in out
    assert "+    port: 8080" in out
    assert out.endswith("Pods restart: no\n")


def test_own_account_that_goes_shows(write, capsys):
    assert diff(write, manifest(), manifest(serviceAccountName="mine")) == 1
    out = capsys.readouterr().out
    assert "--- ServiceAccount/toy (before)\n+++ /dev/null" in out


def test_live_objects_differ_in_nothing_but_what_changes(write, capsys):
    dump = cluster(plan(replicas=2))
    assert diff(write, dump, manifest(replicas=2)) == 0
    assert capsys.readouterr().out == "Pods restart: no\n"
    assert diff(write, dump, manifest(replicas=3)) == 1
    out = capsys.readouterr().out
    assert "-  replicas: 2\n+  replicas: 3" in out
    assert out.count("\n+") == 2, "the header and the count"


def test_newer_operator_restarts_nothing_and_offers(write, capsys):
    dump = cluster(plan(images={"pagoda": "x:1"}))
    new = "--engine-image", "pagoda=x:2"
    assert diff(write, dump, manifest(), *new) == 0
    out = capsys.readouterr().out
    offered = plan(images={"pagoda": "x:2"}).choice.revision
    assert "Pods restart: no" in out
    assert f"spec.rollout.rendering: {offered}" in out
    assert "would change: spec.containers[engine].image" in out
    taken = manifest(rollout={"rendering": offered})
    assert diff(write, dump, taken, *new) == 1
    assert "Pods restart: yes, changed: spec.containers[engine].image" in capsys.readouterr().out


def test_lost_revision_is_no_restart(write, capsys):
    dump = cluster(plan())
    dump["items"] = [o for o in dump["items"] if o["kind"] != "ControllerRevision"]
    assert diff(write, dump, manifest()) == 0
    assert "Pods restart: no" in capsys.readouterr().out


def test_new_one_starts(write, capsys):
    assert diff(write, manifest("other"), manifest()) == 1
    assert "Pods restart: no, they are started for the first time" in capsys.readouterr().out


def test_error_is_2(write, capsys):
    assert diff(write, manifest(), manifest(replicaz=1)) == 2
    assert main(["diff", "-f", "/nosuch", "--from", "/nosuch"]) == 2


def test_needs_neither_kopf_nor_a_kubernetes_client():
    code = (
        "import sys; from pagoda.cli import main; main(['render', '-f', sys.argv[1]]);"
        "assert not {'kopf', 'kubernetes', 'aiohttp'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(EXAMPLES / "quickstart.yaml")]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_live_template_is_the_revisions(write, capsys):
    """A rounded quantity in the live template is no difference."""
    made = plan(resources={"cpu": "1000m"})
    assert only(made, "Deployment")
    assert diff(write, cluster(made), manifest(resources={"cpu": "1000m"})) == 0
