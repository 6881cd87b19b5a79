"""The Serve config file says what Serve and the application understand."""

from pathlib import Path

import pytest
import yaml

from zfleet.config.load import parse_spec
from zfleet.config.serve import ServeSpec
from zfleet.errors import SpecError

CONFIG = Path(__file__).parents[3] / "serve" / "zfleet.yaml"


def test_serve_and_the_application_accept_it() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    (application,) = config.applications
    assert application.import_path == "zfleet_serve.app:build"
    assert parse_spec(application.args, ServeSpec).registry == "http://mlflow:5000"


@pytest.mark.parametrize(("args", "named"), [({}, "registry"), ({"registri": "x"}, "did you mean 'registry'")])
def test_args_that_cannot_be_used_are_refused(args: dict[str, str], named: str) -> None:
    from zfleet_serve.app import build

    with pytest.raises(SpecError, match=named):
        build(args)
