"""A trained connector as a model of a study."""

import pytest

from dyrate.errors import DyrateError
from dyrate.study.model import Model


def test_a_model_entry_may_name_a_connector() -> None:
    model = Model.of({"name": "s-packed", "connector": "connectors/packer", "published": "TokenPacker"})
    assert model == Model.of({"name": "s-packed", "path": "connectors/packer", "published": "TokenPacker"})
    assert model.system is None
    with pytest.raises(DyrateError, match="connector"):
        Model.of({"name": "s", "path": "models/testbed-s", "connector": "connectors/packer"})
