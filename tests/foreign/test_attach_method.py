"""The plugin itself, on foreign tests that are written here: what is attached, what becomes of outcomes."""

from pathlib import Path
from typing import Any

import pytest

from tests.foreign import attach_method

FOREIGN = """
import unittest
from tests.tiny import tiny_inputs, tiny_llava

MODEL, INPUTS = tiny_llava(), tiny_inputs([5])

class ForeignTest(unittest.TestCase):
    def test_1_generate(self):
        out = MODEL.generate(**INPUTS, max_new_tokens=1, return_dict_in_generate=True)
        self.assertEqual(type(out.past_key_values).__name__, "ReducedCache")

    def test_2_block_of_the_test_before_is_left(self):
        self.assertNotIn("generate", vars(MODEL))

    def test_3_forward_twice(self):
        self.assertEqual(MODEL(**INPUTS).logits.shape, MODEL(**INPUTS).logits.shape)

    def test_4_as_long_as_the_prompt(self):
        self.assertEqual(MODEL(**INPUTS).logits.shape[1], INPUTS["input_ids"].shape[1])

    def test_5_refused(self):
        MODEL(**INPUTS, use_cache=False)

    def test_6_refused_in_a_subtest(self):
        for use_cache in (True, False):
            with self.subTest(use_cache=use_cache):
                MODEL(**INPUTS, use_cache=use_cache)

    def test_7_refused_where_another_error_is_expected(self):
        with self.assertRaisesRegex(ValueError, "features"):
            MODEL(**INPUTS, use_cache=False)

    def test_8_fails(self):
        MODEL.generate(**INPUTS, max_new_tokens=0)
"""


class Outcomes:
    """A plugin that notes the outcome of each test by the number in its name; of a refused one the reason."""

    def __init__(self) -> None:
        self.noted: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and "context" not in vars(report):  # not that of a subtest
            number = report.nodeid.partition("test_")[2].partition("::test_")[2][0]
            self.noted[number] = report.longrepr[2] if report.skipped else report.outcome


def run_foreign_test(folder: Path, method: str, *plugins: Any) -> int:
    (folder / "test_foreign.py").write_text(FOREIGN, "utf-8")
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:cacheprovider --import-mode=importlib\n", "utf-8"
    )
    return pytest.main([str(folder), attach_method.OPTION, method], plugins=[attach_method, *plugins])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "whole"),
    [("none", "passed"), ('{"name": "fastv", "layer": 1, "rate": 0.5}', "failed")],
    ids=["none", "fastv"],
)
def test_a_foreign_test_runs_under_the_method(
    method: str, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = Outcomes()
    run_foreign_test(tmp_path, method, outcomes)
    refused = {number: outcomes.noted.pop(number) for number in "567"}
    assert outcomes.noted == {"1": "passed", "2": "passed", "3": "passed", "4": whole, "8": "failed"}
    for reason in refused.values():
        assert reason.startswith(attach_method.REFUSED + "use_cache=False is not supported")
    assert "3 use_cache=False" in capsys.readouterr().out


@pytest.mark.parametrize(("method", "said"), [("fastvv", "did you mean 'fastv'"), ("{", "Expecting")])
def test_an_unfit_method_is_a_usage_error(
    method: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_foreign_test(tmp_path, method) == pytest.ExitCode.USAGE_ERROR
    assert said in capsys.readouterr().err
