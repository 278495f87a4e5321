"""Runs the fault matrix of the Python API."""

import pytest

from dyrate.errors import DyrateError
from tests.faults.calls import CALLS, Call, Scene


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.what)
def test_outcome(call: Call) -> None:
    if call.refusal is None:
        call.call(Scene())
    else:
        with pytest.raises(DyrateError, match=call.refusal):
            call.call(Scene())
