"""ecgtutorial.notebook: recorded values arrive in the prose, and bad input is refused."""

import importlib

import numpy as np
import pandas as pd
import pytest

from ecgtutorial.notebook import record, this_run


class Cohort:
    """As much of a cohort as the line needs."""

    name, fs = "simulated", 100
    table = pd.DataFrame({"patient_id": [1, 1, 2]})

    def __len__(self):
        return len(self.table)


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: pairs of (object, keyword arguments)."""
    calls = []
    ipython = importlib.import_module("IPython.display")
    monkeypatch.setattr(ipython, "display", lambda obj, **kwargs: calls.append((obj, kwargs)))
    return calls


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (3, "3"),
        ("3KG-L", "'3KG-L'"),
        (np.float64(0.25), "0.25"),
        (np.float32(0.25), "0.25"),
        (np.int64(7), "7"),
        (np.array([2.5]), "2.5"),
        (True, "True"),
    ],
)
def test_record_shows_what_glue_reads(shown, value, text):
    record("auc-probe_10", value)
    [(data, options)] = shown
    assert data == {"application/papermill.record/text/plain": text}
    assert options["raw"] is True
    assert options["metadata"]["scrapbook"] == {
        "name": "auc-probe_10",
        "mime_prefix": "application/papermill.record/",
    }


def test_record_takes_a_tensor(shown):
    torch = pytest.importorskip("torch")
    record("loss", torch.tensor(1.5))
    assert list(shown[0][0].values()) == ["1.5"]


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a::b", 3, None])
def test_record_refuses_names_that_a_role_cannot_hold(shown, name):
    with pytest.raises(ValueError, match="name"):
        record(name, 1.0)
    assert not shown


@pytest.mark.parametrize("value", [None, [1.0], np.array([1.0, 2.0]), np.array([]), {"a": 1}, 1j])
def test_record_refuses_values_that_are_not_one_number(shown, value):
    with pytest.raises(ValueError, match="'auc'"):
        record("auc", value)
    assert not shown


def test_this_run_names_cohort_size_rate_and_scale(shown):
    this_run(Cohort(), "quick")
    text = shown[0][0].data
    for part in ("simulated", "3 records", "2 patients", "100 Hz", "quick"):
        assert part in text


def test_this_run_refuses_an_unknown_scale(shown):
    with pytest.raises(ValueError, match="'fast'"):
        this_run(Cohort(), "fast")
