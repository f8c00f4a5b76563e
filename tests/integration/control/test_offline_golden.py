"""`pagoda render` prints what the operator really applies, and `pagoda diff` sees no difference."""

from pathlib import Path

import pytest
import yaml
from pagoda.cli import main
from pagoda.controller.apply import APPLIED_ANNOTATION
from pagoda.controller.projection import project
from pagoda.kube.resources import resource_of

from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess

EXAMPLES = Path(__file__).parents[3] / "examples"
CHILDREN = "deploy,svc,pdb,sa,ingress,hpa,controllerrevision"


@pytest.mark.parametrize("example", ["quickstart", "full"])
def test_render_is_what_is_applied(
    api: Api, operator: OperatorProcess, example: str, tmp_path: Path, capsys
):
    file = tmp_path / "example.yaml"
    documents = yaml.safe_load_all((EXAMPLES / f"{example}.yaml").read_text())
    (mine,) = [d for d in documents if d["kind"] == "LLMDeployment"]
    file.write_text(yaml.safe_dump(mine))
    api.apply(mine)
    name = mine["metadata"]["name"]
    eventually(lambda: api.condition(name))
    uid = api.get("llmd", name)["metadata"]["uid"]

    assert main(["render", "-f", str(file), "-n", api.namespace]) == 0
    for wanted in yaml.safe_load_all(capsys.readouterr().out):
        wanted["metadata"]["ownerReferences"][0]["uid"] = uid
        live = api.get(resource_of(wanted).plural, wanted["metadata"]["name"])
        assert live is not None, wanted["kind"]
        assert APPLIED_ANNOTATION in live["metadata"]["annotations"]
        if wanted["kind"] == "ControllerRevision":
            assert live["data"] == wanted["data"], "the template, to the last field"
        if wanted["kind"] == "Deployment":  # the server completes references in its template
            for obj in (live, wanted):
                obj["spec"]["template"] = obj["spec"]["template"]["metadata"]
        assert project(live, wanted) == wanted

    dump = tmp_path / "live.yaml"
    selector = f"serving.pagoda.dev/llmdeployment={name}"
    dump.write_text(api.kubectl("get", CHILDREN, "-l", selector, "-o", "yaml").stdout)
    assert main(["diff", "-f", str(file), "--from", str(dump), "-n", api.namespace]) == 0
    assert capsys.readouterr().out == "Pods restart: no\n"
