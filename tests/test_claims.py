"""The ledger: its rules are sound, its arithmetic is right, and the published one is up to date."""

import json

import numpy as np
import pandas as pd
import pytest

from ecgtutorial import claims, experiments, runs
from ecgtutorial.claims import CLAIMS, NOT, OPEN, REPRODUCED, UNTESTABLE, Claim, less

NAMES = ("A1", "A2", "A3", "A4", "B1", "B2", "B3", "B4", "B5", "C1", "C2", "C3", "D1", "D2", "D3",
         "D4")  # fmt: skip
NUMBERS = ["value", "low", "high"]


# --- verdicts by hand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.01, 0.03, 0.0, REPRODUCED),
        (-0.03, -0.01, 0.0, NOT),
        (-0.01, 0.03, 0.0, OPEN),
        (0.01, 0.03, 0.02, OPEN),
        (0.01, 0.03, 0.04, NOT),  # better than nothing, yet less than the claim asks for
        (-0.004, 0.0, -0.005, REPRODUCED),  # a little worse passes for equal
        (0.0, 0.1, 0.0, OPEN),  # an end on the margin decides nothing
        (-0.1, 0.0, 0.0, OPEN),
    ],
)
def test_verdict(low, high, margin, expected):
    assert claims.verdict(low, high, margin) == expected


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.1), (np.nan, 0.1), (0.1, np.nan)])
def test_a_verdict_needs_an_interval(low, high):
    with pytest.raises(ValueError, match="low <= high"):
        claims.verdict(low, high, 0)


def part(value, low, high, margin=0.0):
    return {"value": value, "low": low, "high": high, "seeds": 3, "cells": "",
            "verdict": claims.verdict(low, high, margin)}  # fmt: skip


GOOD, UNSURE, BAD = part(0.2, 0.1, 0.3), part(0.1, -0.1, 0.3), part(-0.2, -0.3, -0.1)


@pytest.mark.parametrize(
    ("there", "missing", "expected", "decides"),
    [
        ({"a": GOOD}, [], REPRODUCED, "a"),
        ({"a": GOOD, "b": part(0.1, 0.05, 0.2)}, [], REPRODUCED, "b"),  # the smallest of the good
        ({"a": GOOD, "b": UNSURE}, [], OPEN, "b"),
        ({"a": GOOD, "b": UNSURE, "c": BAD}, [], NOT, "c"),
        ({"a": GOOD}, ["b"], OPEN, "a"),  # what is missing cannot be confirmed
        ({"a": BAD}, ["b"], NOT, "a"),  # one failure is enough
    ],
)
def test_the_worst_part_decides(there, missing, expected, decides):
    row = claims._decided(there, missing, "9 test patients")
    assert (row["verdict"], row["part"]) == (expected, decides)
    good = sum(one["verdict"] == REPRODUCED for one in there.values())
    assert row["parts"] == f"{good} of {len(there) + len(missing)}"
    assert bool(row["why"]) == (expected == OPEN or bool(missing))
    assert all(name in row["why"] for name in missing)


# --- the arithmetic ----------------------------------------------------------------------------


def test_a_contrast_is_a_weighted_sum():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(3, 400))
    value, low, high = claims.contrast([1, -0.5, -0.5], [0.9, 0.7, 0.5], draws)
    each = [a - (b + c) / 2 for a, b, c in draws.T]
    assert np.isclose(value, 0.3)
    assert np.allclose([low, high], np.quantile(each, [0.025, 0.975]))


def test_a_relative_contrast_is_a_ratio():
    draws = np.array([[2.0, 3.0, 4.0], [1.0, 2.0, 4.0]])
    value, low, high = claims.contrast([1, -1], [0.826, 0.757], draws, relative=True)
    assert np.isclose(value, 0.826 / 0.757 - 1)
    assert np.allclose([low, high], np.quantile([1.0, 0.5, 0.0], [0.025, 0.975]))


def test_terms():
    one, other = less("a", "b", "probe", "fine-tuned", budget=0.5)
    assert one == (1, {"method": "a", "protocol": "probe", "budget": 0.5})
    assert other == (-1, {"method": "b", "protocol": "fine-tuned", "budget": 0.5})
    mean = claims.mean_over("leads", (12, 1), less("a", "b"))
    assert [(w, cell["method"], cell["leads"]) for w, cell in mean] == [
        (0.5, "a", 12), (-0.5, "b", 12), (0.5, "a", 1), (-0.5, "b", 1)
    ]  # fmt: skip
    assert claims.scaled(-1, (one,)) == ((-1, one[1]),)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A results folder with one table: methods a and b, three and two seeds, two budgets."""
    table = runs.Table(tmp_path / "somewhere" / "trial.csv")
    rng, values = np.random.default_rng(1), {}
    for method, seeds in (("a", 3), ("b", 2)):
        for seed in range(seeds):
            for budget, subset in ((0.5, 0), (0.5, 1), (1.0, 0)):
                name = f"{method}{seed}{budget}{subset}"
                values[name] = rng.uniform(0.6, 0.9)
                row = {"method": method, "protocol": "probe", "budget": budget, "subset": subset,
                       "seed": str(seed), "metric": "auc", "config": name,
                       "value": values[name]}  # fmt: skip
                table.add([row], samples={f"{name}:auc": values[name] + rng.normal(0, 0.01, 300)})
    table.describe(n_test_patients=40)
    monkeypatch.setattr(runs, "results_folder", lambda: tmp_path)
    return values


def claim(parts, **changes):
    return Claim("X1", "X", "a beats b", 0.1, "nowhere", {"somewhere": "trial"}, "auc", parts,
                 "a less b", **changes)  # fmt: skip


def test_a_part_counts_the_seeds_and_subsets_of_both_sides(made_up):
    terms = less("a", "b", "probe", budget=0.5)
    row = claims.decide(claim({"all": terms}), "somewhere")
    pairs = [f"{seed}0.5{subset}" for seed in (0, 1) for subset in (0, 1)]  # a's third seed is out
    gain = np.mean([made_up["a" + p] - made_up["b" + p] for p in pairs])
    assert np.isclose(row["value"], gain)
    assert row["low"] < gain < row["high"]
    assert (row["seeds"], row["rule_first"]) == (2, "yes")
    assert set(row["cells"].split()) == {m + p for m in "ab" for p in pairs}
    assert row["table"] == "results/somewhere/trial.csv"


def test_between_budgets_each_side_keeps_its_own_subsets(made_up):
    terms = ((1, {"method": "a", "budget": 0.5}), (-1, {"method": "b", "budget": 1.0}))
    row = claims.decide(claim({"half less all": terms}), "somewhere")
    half = np.mean([made_up[f"a{s}0.5{k}"] for s in (0, 1) for k in (0, 1)])
    assert np.isclose(row["value"], half - np.mean([made_up[f"b{s}1.00"] for s in (0, 1)]))


def test_what_is_not_there_is_not_testable(made_up):
    absent = less("a", "c", "probe", budget=0.5)
    row = claims.decide(claim({"over c": absent}), "somewhere")
    assert row["verdict"] == UNTESTABLE and "none of its cells" in row["why"]
    other = {"elsewhere": "trial", "nowhere": "(no labels)"}
    one = Claim(**{**vars(claim({"over c": absent})), "tables": other})
    rows = [claims.decide(one, cohort) for cohort in other]
    assert [row["verdict"] for row in rows] == [UNTESTABLE] * 2
    assert [row["why"] for row in rows] == [
        "the experiment trial was not run on this cohort", "no labels"
    ]  # fmt: skip


def test_a_part_that_is_missing_leaves_a_claim_open(made_up):
    parts = {"over b": less("a", "b", "probe", budget=0.5),
             "over c": less("a", "c", "probe", budget=0.5)}  # fmt: skip
    row = claims.decide(claim(parts, margin=-1.0), "somewhere")
    assert row["verdict"] == OPEN and row["parts"] == "1 of 2" and "over c" in row["why"]


# --- the rules ---------------------------------------------------------------------------------


def test_all_sixteen_claims_are_there():
    assert tuple(one.name for one in CLAIMS) == NAMES
    assert all(one.paper.startswith(one.name[0]) for one in CLAIMS)


@pytest.mark.parametrize("one", CLAIMS, ids=NAMES)
def test_a_rule_is_sound(one):
    for cohort, experiment in one.tables.items():
        assert experiment in experiments.EXPERIMENTS or experiment.startswith("(")
        assert one.rule_first.get(cohort, "yes") in ("yes", "partly", "no")
    for terms in one.parts.values():
        assert np.isclose(sum(weight for weight, _ in terms), 0), "a difference"
        assert all(set(cell) <= set(runs.COLUMNS) for _, cell in terms)
    if one.paper_value is not None:  # what the paper reports would pass, or is the border itself
        assert one.paper_value >= one.margin
    assert f"{abs(one.margin):g}" in one.rule, "the margin stands in words too"


# --- the published ledger ----------------------------------------------------------------------


def compare(cohorts, data=None):
    path = runs.results_folder() / "claims.csv"
    frame = claims.published()
    frame = frame[frame["cohort"].isin(cohorts)].reset_index(drop=True)
    again = claims.ledger(cohorts, data)
    advice = f"{path.name} is not what its tables say: run python -m ecgtutorial.claims"
    keys = ["claim", "cohort", "verdict", "rule", "rule_first", "table", "part", "parts", "cells"]
    for key in keys:
        assert frame[key].fillna("").tolist() == again[key].fillna("").tolist(), advice
    assert np.allclose(frame[NUMBERS], again[NUMBERS], atol=1e-5, equal_nan=True), advice
    assert np.allclose(frame["margin"], again["margin"])


def test_the_ledger_follows_from_the_tables_on_simulated_hearts():
    compare(["simulated", "simulated-vt"])


def test_the_ledger_follows_from_the_tables_on_real_records(ptbxl_folder):
    compare(["ptb-xl"], ptbxl_folder)


def test_the_published_ledger_is_whole():
    frame = claims.published()
    assert sorted(zip(frame["claim"], frame["cohort"])) == sorted(
        (one.name, cohort) for one in CLAIMS for cohort in one.tables
    )
    for row in frame.itertuples():
        if row.verdict == UNTESTABLE:
            assert np.isnan(row.value) and row.why
        else:
            assert row.low <= row.value <= row.high
            missing = "not in the table" in str(row.why)
            assert row.verdict == claims.verdict(row.low, row.high, row.margin) or missing


def test_a_part_agrees_with_the_table_that_shows_it():
    """B2 and C2, against summary rows that the experiments wrote themselves."""
    frame = claims.published().set_index(["claim", "cohort"])
    for claim_name, experiment, metric, method, protocol in (
        ("B2", "linear-evaluation-all", "macro_auc_gain", "cpc", "fine-tuned"),
        ("C2", "spatio-temporal", "exact_match_gain", "spatio-temporal", "fine-tuned"),
    ):
        table, _ = runs.load_results("ptb-xl", experiment)
        [row] = table[(table["seed"] == "all") & (table["metric"] == metric)
                      & (table["method"] == method) & (table["protocol"] == protocol)
                      & np.isclose(table["budget"], 1)].itertuples()  # fmt: skip
        ours = frame.loc[claim_name, "ptb-xl"]
        assert np.allclose([row.value, row.low, row.high], ours[NUMBERS].astype(float), atol=1e-5)


def test_rows_of_a_paper():
    shown = claims.rows("B")
    assert len(shown) == 2 * 5 and set(shown["claim"].str[0]) == {"B"}
    assert len(claims.rows("A3")) == 2
    with pytest.raises(ValueError, match="expected the beginning of one of A1"):
        claims.rows("E")


def test_summary_counts():
    verdicts = [REPRODUCED, REPRODUCED, NOT, OPEN, UNTESTABLE]
    frame = pd.DataFrame({"cohort": ["ptb-xl"] * 5 + ["simulated"], "verdict": [*verdicts, OPEN]})
    assert claims.summary(frame) == (
        "2 of 5 claims reproduced, 1 not, 1 open, 1 not testable, on real ECG (PTB-XL)"
    )
    assert claims.summary(frame, "simulated").startswith("0 of 1 claims reproduced, 0 not, 1 open")


def test_another_cohort_than_the_tables_is_refused(tmp_path, monkeypatch):
    source = runs.results_folder() / "simulated" / "linear-evaluation.csv"
    folder = tmp_path / "simulated"
    folder.mkdir()
    for suffix in (".csv", ".npz"):
        (folder / f"linear-evaluation{suffix}").write_bytes(source.with_suffix(suffix).read_bytes())
    how = runs.load_provenance(source) | {"scale": "quick"}
    (folder / "linear-evaluation.json").write_text(json.dumps(how))
    monkeypatch.setattr(runs, "results_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match="give the data that the table was made with"):
        claims.ledger(["simulated"])
