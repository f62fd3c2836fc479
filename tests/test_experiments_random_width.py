"""What meets in the table of random encoders, without computing it."""

import pytest

from ecgtutorial import cohort as cohorts
from ecgtutorial.experiments import random_width


@pytest.fixture(scope="module")
def small():
    return cohorts.open_cohort("simulated", n_patients=60, fs=100)


def test_everyone_is_probed_and_widths_grow(small):
    found = list(random_width.random_width_entrants(small, "full", (0, 1), progress=False))
    first = [one.method for one in found if one.seed == 0]
    assert first[:4] == ["cpc-s4", "simclr", "cpc", "kernels-30"]
    assert {"kernels-3000", "xresnet-32", "xresnet-128-awake"} <= set(first)
    assert all(one.protocols == ("probe",) for one in found)
    identities = {(one.method, one.seed): one.identity for one in found}
    assert len(set(identities.values())) == len(first)  # a seed is not part of it
    assert {one.method for one in found if one.seed == 1} == set(first)


def test_what_is_compared(small, monkeypatch, tmp_path):
    asked = {}

    def filled(name, experiment, everyone, cohort, *rest, **provenance):
        asked.update(rest[-1], name=name, code=provenance["code"])

    monkeypatch.setattr(random_width, "filled", filled)
    random_width.run_random_width(small, "full", [0], tmp_path / "t.csv", progress=False)
    assert asked["name"] == "random-width" and asked["budgets"] == (0.02, 0.1, 1.0)
    assert asked["subsets"][0.02] == 5 and asked["seconds"] == 2.5 and asked["overlap"] == 0.5
    assert asked["over"]["cpc"]["kernels-30"] == asked["over"]["cpc"]["cpc-s4"] == "cpc"
    assert "cpc" not in asked["over"]["simclr"]
    assert "evaluate.random_width.wide_probe" in asked["code"]
    assert "encoders.random_features.RandomConvolutions" in asked["code"]
