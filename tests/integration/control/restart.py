"""What every kind of child has to stand: an operator that is restarted writes nothing."""

from tests.integration.control.conftest import StartOperator
from tests.kube import Api, eventually
from tests.operator_process import OperatorProcess


def replace_operator(api: Api, first: OperatorProcess, start: StartOperator) -> None:
    """Stop an operator, and let another one look at the LLMDeployment `toy` twice: when it starts
    and after an edit that means nothing."""
    assert first.stop() == 0
    second = start("two").start()
    second.settle(passes=1)
    passes = second.passes()
    api.patch("llmd", "toy", {"metadata": {"labels": {"touched": "again"}}})
    eventually(lambda: second.passes() > passes)
    second.settle(passes=1)
