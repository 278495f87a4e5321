"""The paragraph on the paper's claims: its numbers are those of the results, whichever way they fall."""

import json
from pathlib import Path

import pytest

from dyrate.analysis.claims import Claim, claims, kept_of_unpruned
from dyrate.analysis.contents import gather
from dyrate.analysis.equal_budget import standings
from dyrate.analysis.measurements import load
from dyrate.analysis.paired import Answers
from dyrate.study import Study
from tests.report import fake
from tests.report.test_equal_budget import SHARES, write

BENCHMARKS = ["gqa", "vizwiz", "sqa", "vqav2", "pope", *fake.CAPTIONS]


@pytest.fixture
def tell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(benchmarks=tuple(BENCHMARKS), **shares):
        swept = [name for name in shares if name not in SHARES]
        study = Study.of(
            {
                "study": "small",
                "models": [{"name": "a", "path": "a"}],
                "predictors": [{"name": "default"}, *({"name": name} for name in swept)],
                "methods": [
                    {"name": "none"},
                    {"name": "fastv", "layer": 2, "rate": 0.25},
                    {"name": "fastv", "layer": 2, "rate": 0.75},
                    {"name": "dyrate", "predictor": "default", "layer": 2},
                    *({"name": "dyrate", "predictor": name, "layer": 2, "group": "budget"} for name in swept),
                ],
                "benchmarks": list(benchmarks),
            }
        )
        write(study, tmp_path, {**SHARES, **shares})
        measurements = load(study)
        found = standings(measurements, Answers(0))
        return measurements, claims(measurements, found, Answers(0))

    return run


def test_eight_wins_are_the_claim_and_seven_are_not(tell):
    _, (beats, *_) = tell(default=(0.5, 0.5))

    assert beats.holds == (True,)
    assert (
        "on a at 50% of the tokens at prefill and 50% at decode: 8 wins, 0 ties and 0 losses (8 and 0 "
        "after Holm's correction) against FastV (K=2) on 8 benchmarks" in beats.cases[0]
    )

    _, (beats, *_) = tell(default=(0.9, 0.9))
    assert beats.holds == (False,)
    assert beats.verdict == "does not hold here"


def test_the_papers_and_ours_are_claimed_apart(tell):
    measurements, _ = tell(default=(0.5, 0.5), lavish=(0.9, 0.9))
    for m in measurements:
        if "predictor=lavish" in m.label:
            m.result["origin"] = "ours"
            m.job.method.__dict__["group"] = "main"

    told = claims(measurements, standings(measurements, Answers(0)), Answers(0))

    assert [claim.claim.partition(" beats")[0] for claim in told][::3] == [
        "At equal budget DyRate",
        "At equal budget DyRate+, which is ours,",
    ]
    assert (told[0].holds, told[3].holds) == ((True,), (False,))
    assert all("predictor=lavish" not in case for claim in told[:3] for case in claim.cases)
    assert all("predictor=default" not in case for claim in told[3:] for case in claim.cases)


def test_on_fewer_benchmarks_than_wins_are_claimed_nothing_can_be_told(tell):
    _, (beats, *_) = tell(BENCHMARKS[:7], default=(0.5, 0.5))

    assert (beats.holds, beats.untold) == ((), 1)
    assert beats.verdict == "cannot be told here"
    assert beats.cases[0].endswith("cannot be told at this budget, only 7 comparisons")


def test_too_few_wins_are_too_few_even_if_the_missing_benchmarks_were_won(tell):
    # At 90% of the tokens DyRate wins nowhere: three benchmarks that are missing cannot make up eight wins.
    _, (beats, *_) = tell(BENCHMARKS[:7], default=(0.9, 0.9))

    assert (beats.holds, beats.untold) == ((False,), 0)
    assert beats.verdict == "does not hold here"


def test_a_case_that_cannot_be_told_counts_neither_for_nor_against():
    assert Claim("", (), (True,), untold=1).verdict == "holds here, and cannot be told in 1 more"
    assert Claim("", (), (False,), untold=1).verdict == "does not hold here, and cannot be told in 1 more"
    assert Claim("", (), (False, True), untold=2).verdict == (
        "holds here in 1 of 2 cases, and cannot be told in 2 more"
    )


def test_where_fastv_has_far_more_in_one_phase_the_note_says_so(tell):
    _, (beats, *_) = tell(default=(0.75, 0.5))
    assert "In 3 of 3 comparisons on captions FastV has over 10 points more than DyRate in one" in beats.note

    _, (beats, *_) = tell(default=(0.55, 0.5))
    assert "more than DyRate" not in beats.note


def test_a_benchmark_beyond_the_papers_ten_is_no_win_of_eight(tell):
    _, (beats, *_) = tell([*BENCHMARKS[:7], "textvqa"], default=(0.5, 0.5))

    assert beats.holds == ()
    assert "against FastV (K=2) on 7 benchmarks" in beats.cases[0]
    assert "without TextVQA" in beats.note


def test_a_sweep_is_told_from_the_most_tokens_to_the_fewest(tell):
    _, (beats, *_) = tell(default=(0.5, 0.5), lean=(0.45, 0.45), lavish=(0.9, 0.9))

    assert [case.partition("% of")[0] for case in beats.cases] == ["on a at 90", "on a at 50", "on a at 45"]
    # At 90% of the tokens FastV's mixture has 38 of 40 right, at 45% and 50% 22 and 24.
    assert beats.holds == (False, True, True)
    assert beats.verdict == "holds here in 2 of 3 cases"


def test_what_is_kept_is_the_mean_share_of_the_unpruned_score(tell):
    measurements, (_, third, _) = tell(("gqa", "nocaps"), default=(0.33, 0.3))
    dyrate = measurements[-1]

    kept = kept_of_unpruned(dyrate, ["gqa", "nocaps"], Answers(0))

    # 32 of 40 questions; captions of CIDEr 1.2 or 0.3, against 40 of 40.
    assert kept["value"] == pytest.approx((80 + 100 * (32 * 1.2 + 8 * 0.3) / (40 * 1.2)) / 2)
    assert kept["low"] < kept["value"] < kept["high"]
    assert third.holds == (False,)
    assert f"keeps {kept['value']:.1f}%" in third.cases[0]
    assert "the only setting within it" in third.cases[0]


def test_a_setting_that_spends_more_does_not_count(tell):
    _, (_, third, _) = tell(("gqa", "nocaps"), default=(0.5, 0.3))

    assert third.holds == (False,)
    assert (
        "no setting spends so little: the leanest, DyRate (predictor=default, K=2), spends 50%"
        in third.cases[0]
    )


def test_a_tenth_is_counted_from_the_prune_layer_on(tell, tmp_path):
    tell(("nocaps",))
    path = Path("results/small/a/dyrate-layer=2-predictor=default/greedy.json")
    result = json.loads(path.read_text())
    result["benchmarks"]["nocaps"]["visual_tokens"] |= {"decode": [100.0, 100.0, 10.0, 10.0]}
    path.write_text(json.dumps(result))
    # All 40 captions as good as the unpruned model's.
    path.with_name("greedy.answers.parquet").write_bytes(
        Path("results/small/a/none/greedy.answers.parquet").read_bytes()
    )
    study = Study.of(
        {
            "study": "small",
            "models": [{"name": "a", "path": "a"}],
            "predictors": [{"name": "default"}],
            "methods": [{"name": "none"}, {"name": "dyrate", "predictor": "default", "layer": 2}],
            "benchmarks": ["nocaps"],
        }
    )

    *_, tenth = gather(study, load(study)).claims

    assert tenth.holds == (True,)
    assert "10% at decode from layer 2 on (55% over all layers)" in tenth.cases[0]


def test_without_answers_nothing_is_claimed(tell, tmp_path):
    measurements, _ = tell(("gqa",))
    for path in tmp_path.rglob("*.parquet"):
        path.unlink()

    found = claims(measurements, standings(measurements, Answers(0)), Answers(0))

    assert [claim.verdict for claim in found] == ["cannot be told here"] * 3


def test_a_study_without_dyrate_claims_nothing(study, measurements):
    assert claims(measurements, (), Answers(0)) == ()
