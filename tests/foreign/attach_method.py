"""A pytest plugin that runs another project's tests of models under a reduction method; see README.md.

A model enters the method's block at its first forward or `generate()` inside a test and leaves it at the end
of the test. A test that ends in a refusal of ours (`DyrateError`) counts as skipped, with the refusal as
the reason.
"""

import json
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack
from functools import wraps
from typing import Any

import pytest

OPTION = "--dyrate-method"
REFUSED = "refused by dyrate: "


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION,
        default="none",
        help='the method: a name, or JSON such as {"name": "fastv", "layer": 1, "rate": 0.5}',
    )


def pytest_configure(config: pytest.Config) -> None:
    # Not before: other projects put a checkout of transformers on the path in their conftest.
    from dyrate import load_method

    given = config.getoption(OPTION)
    try:
        method = load_method(json.loads(given) if given.startswith("{") else {"name": given})
    except ValueError as error:  # `DyrateError` is one, as are errors of JSON
        raise pytest.UsageError(f"{OPTION}: {error}") from error
    config.pluginmanager.register(_Attached(method))


class _Attached:
    def __init__(self, method: Any):
        self.method = method
        self.refusals: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        import transformers

        from dyrate.families import families

        with ExitStack() as blocks, pytest.MonkeyPatch.context() as patch:
            attached: dict[int, Any] = {}

            def attach_first(kind: Any, name: str) -> None:
                original = getattr(kind, name)

                @wraps(original)
                def first(model: Any, *args: Any, **kwargs: Any) -> Any:
                    # The dict keeps the model alive, so that no other gets its id.
                    if type(model) is not kind or id(model) in attached:
                        return original(model, *args, **kwargs)
                    attached[id(model)] = model
                    blocks.enter_context(self.method(model))
                    # Once more by name: the block has put its own `generate` on the model.
                    return getattr(model, name)(*args, **kwargs)

                patch.setattr(kind, name, first)

            for model in families():
                attach_first(getattr(transformers, model), "__call__")
                attach_first(getattr(transformers, model), "generate")
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, Any]:
        report = yield
        refusal = _refusal(call.excinfo.value) if call.excinfo and report.failed else None
        if refusal is not None:
            self.refusals.setdefault(item.nodeid, refusal)
        elif not (report.when == "call" and report.passed):
            return report
        if item.nodeid in self.refusals:  # in itself, or in one of its subtests
            path, line, _ = item.location
            report.outcome = "skipped"
            report.longrepr = (path, line or 0, REFUSED + self.refusals[item.nodeid])
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section(f"refusals under {self.method}")
        for message, count in Counter(self.refusals.values()).most_common():
            terminalreporter.write_line(f"{count:4} {message}")


def _refusal(error: BaseException | None) -> str | None:
    """The message of the `DyrateError` that `error` is or came of."""
    from dyrate.errors import DyrateError

    while error is not None:
        if isinstance(error, DyrateError):
            return str(error)
        error = error.__cause__ or error.__context__
    return None
