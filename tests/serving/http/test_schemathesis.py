"""schemathesis asks the server what its description says, and what it does not allow."""

import hypothesis
import pytest
import schemathesis
from asgi_client import HOST
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.http.access import Access
from mlx_lfm2vl.serving.http.app import App
from mlx_lfm2vl.serving.http.fronts import all_fronts
from mlx_lfm2vl.serving.served import served_model

LONG = (pytest.mark.fuzz, pytest.mark.timeout(7200))


@pytest.fixture(scope="module")
def schema():
    core = Core([served_model("demo", dtype="float32")])
    app = App(core, Terms(core.model, max_tokens=4), Access(), all_fronts())
    yield schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": HOST})
    core.stop()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    "cases", [pytest.param(3, marks=pytest.mark.slow), pytest.param(100, marks=LONG)]
)
def test_every_answer_is_as_it_is_described(schema, mode, cases):
    answered = 0
    for operation in (found.ok() for found in schema.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and operation.method.upper() != "POST":
            continue  # nothing can be wrong there

        @hypothesis.given(operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=cases,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        def asks(case):
            nonlocal answered
            response = case.call(headers={"Host": HOST})
            # A body may be of the right form and still ask for what there is not.
            case.validate_response(response, excluded_checks=[positive_data_acceptance])
            answered += 1

        asks()
    assert answered > 14
