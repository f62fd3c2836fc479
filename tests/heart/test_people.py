"""Simulated patients: PTB-XL's frequencies and pairs, rules never broken, readers that err."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest

from ecgtutorial.datasets import ptbxl
from ecgtutorial.heart import people
from ecgtutorial.heart.people import STATEMENTS, check, draw, read

N = 20_000
AT = {code: i for i, code in enumerate(STATEMENTS)}
RHYTHM = np.array([s.rhythm for s in ptbxl.STATEMENTS.values()])


def numbers(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, people.K_U)), rng.standard_normal((n, people.K_Z))


@pytest.fixture(scope="module")
def drawn():
    u, z = numbers(N)
    draw(u[:2], z[:2])
    start = time.perf_counter()
    patients = draw(u, z)
    assert time.perf_counter() - start < 1
    return patients


@pytest.fixture(scope="module")
def true(drawn):
    return pd.DataFrame(drawn[2] > 0, columns=STATEMENTS)


def superclasses(labels):
    tasks = ptbxl.classes("superclass").items()
    return pd.DataFrame({k: labels[list(codes)].max(axis=1).astype(bool) for k, codes in tasks})


@pytest.fixture(scope="module")
def real(ptbxl_folder):
    database = pd.read_csv(ptbxl_folder / "ptbxl_database.csv")
    return database, ptbxl.statement_labels(database).astype(bool)


# --- who ----------------------------------------------------------------------------------------


def test_all_statements_of_ptbxl_in_its_order(true):
    assert STATEMENTS == tuple(ptbxl.STATEMENTS)
    assert true.any().all()


def test_ages_sexes_and_severities(drawn):
    age, female, severity = drawn
    assert age.dtype == float and female.dtype == bool and severity.shape == (N, len(STATEMENTS))
    assert (age == np.rint(age)).all() and age.min() >= 18 and age.max() <= 95
    assert abs(female.mean() - 0.48) < 0.012
    there = severity > 0
    assert severity[there].min() >= 0.15 and severity[there].max() <= 1.15
    complete = np.isin(STATEMENTS, people.COMPLETE)
    assert {"CLBBB", "CRBBB", "3AVB"} <= set(people.COMPLETE)
    assert severity[:, complete][there[:, complete]].min() >= 0.65
    common = severity[there[:, AT["IMI"]], AT["IMI"]]
    assert common.min() < 0.2 and common.max() > 1.08 and 0.55 < np.median(common) < 0.75


def test_a_patient_depends_on_its_own_row_only(drawn):
    u, z = numbers(N)
    rows = [0, 7, 4711, N - 1]
    for got, whole in zip(draw(u[rows], z[rows]), drawn):
        assert (got == whole[rows]).all()
    for row in rows:
        for got, whole in zip(draw(u[[row]], z[[row]]), drawn):
            assert (got[0] == whole[row]).all()
    wider = draw(np.pad(u[:9], ((0, 0), (0, 5))), np.pad(z[:9], ((0, 0), (0, 5))))
    assert (wider[2] == drawn[2][:9]).all()
    assert draw(u[:0], z[:0])[2].shape == (0, len(STATEMENTS))


def test_exclusions_hold(true):
    together = true.T.to_numpy().astype(int) @ true.to_numpy().astype(int)
    assert not together[people._CONTRADICT | people._INSTEAD].any()
    assert (true[list(people.RHYTHMS)].sum(axis=1) <= 1).all()
    for row in np.unique(true.to_numpy(), axis=0)[:300]:
        check(np.array(STATEMENTS)[row])


def test_normal_is_who_has_no_disease(true):
    sick = true[people._DISEASES].any(axis=1)
    assert not (sick & true["NORM"]).any()
    neither = ~true[[*people._DIAGNOSTIC, "NORM"]].any(axis=1)
    assert 0.01 < neither.mean() < 0.03  # PTB-XL: 61 of 2,992
    assert not (neither & true[["SR", "SBRAD", "STACH", "SARRH"]].any(axis=1)).any()
    assert (true["NORM"] & true["IRBBB"]).any() and (true["NORM"] & true["PVC"]).any()


# --- against PTB-XL -----------------------------------------------------------------------------


def test_shares_are_those_of_the_table(true):
    """Each share within 4 standard errors of 20,000 patients, plus a tenth."""
    for code, share in zip(*(part.tolist() for part in people._copula())):
        code, share = STATEMENTS[code], share[0] / 100
        assert abs(true[code].mean() - share) < 4 * np.sqrt(share / N) + 0.1 * share, code


def test_shares_of_ptbxl(true, real):
    """19 of 20 statements within two standard errors of the difference or a factor of 1.3."""
    _, labels = real
    a, b = labels.mean(), true.mean()
    error = 2 * np.sqrt(a * (1 - a) / len(labels) + b * (1 - b) / N)
    near = (np.abs(a - b) <= error) | ((b < 1.3 * a) & (a < 1.3 * b))
    assert near.mean() >= 0.95, list(a.index[~near])
    difference = superclasses(labels).mean() - superclasses(true).mean()
    assert difference.abs().max() < 0.015


def test_combinations_of_superclasses(true, real):
    def combinations(labels):
        codes = superclasses(labels) @ (2 ** np.arange(5))
        return codes.value_counts(normalize=True)

    a, b = combinations(real[1]), combinations(true)
    b = b.reindex(a.index, fill_value=0)
    assert np.abs(a - b).max() < 0.015
    assert np.abs(a - b).sum() / 2 < 0.06  # total variation; random halves of PTB-XL: 0.047


def test_pairs_occur_together_as_in_ptbxl(true, real):
    _, labels = real
    codes = [code for code in STATEMENTS if code != "SR"]
    pairs = sorted(
        itertools.combinations(codes, 2), key=lambda p: -(labels[p[0]] & labels[p[1]]).sum()
    )

    def lift(table, a, b):
        return (table[a] & table[b]).mean() / table[a].mean() / table[b].mean()

    ratio = np.array([lift(true, *p) / lift(labels, *p) for p in pairs[:30]])
    assert 0.85 < np.median(ratio) < 1.15
    assert ratio.min() > 0.6 and ratio.max() < 1.7


def test_ages_and_sexes_of_ptbxl(drawn, true, real):
    age, female, _ = drawn
    database, labels = real
    mine, theirs = superclasses(true), superclasses(labels)
    for name in mine:
        quartiles = np.quantile(age[mine[name]], [0.25, 0.5, 0.75])
        want = database["age"][theirs[name]].quantile([0.25, 0.5, 0.75])
        assert np.abs(quartiles - want).max() <= 4, name
        assert abs(female[mine[name]].mean() - database["sex"][theirs[name]].mean()) < 0.06
    for code in ("AFIB", "SBRAD", "STACH"):
        assert abs(np.median(age[true[code]]) - database["age"][labels[code]].median()) <= 4


# --- prevalence ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prevalence",
    [
        {"AFIB": 0.3},
        {"IMI": 0.8},
        {"NORM": 0.9},
        {"CLBBB": 0.4, "CRBBB": 0.4},
        {"IMI": 0.5, "NORM": 0.5},
        {"PVC": 0, "PACE": 0, "LVH": 0.02},
        {"AFIB": 1, "IMI": 1},
    ],
    ids=str,
)
def test_prevalence_is_reached(prevalence):
    """Within 4 standard errors of the patients and of the reference population."""
    severity = draw(*numbers(N, seed=1), prevalence)[2] > 0
    for code, share in prevalence.items():
        error = 4 * np.sqrt(share * (1 - share) * (1 / N + 1 / people._REFERENCE))
        assert abs(severity[:, AT[code]].mean() - share) <= error + 0.001, code
    together = severity.T.astype(int) @ severity.astype(int)
    assert not together[people._CONTRADICT].any()


def test_others_keep_their_share(true):
    u, z = numbers(N)
    shares = (draw(u, z, {"AFIB": 0.3})[2] > 0).mean(axis=0)
    for code in ("NORM", "IMI", "LVH", "NDT", "DIG", "SBRAD", "PVC"):
        assert abs(shares[AT[code]] - true[code].mean()) < 0.01, code
    assert (draw(u, z, {})[2] == draw(u, z)[2]).all()


@pytest.mark.parametrize(
    "prevalence, message",
    [
        ({"XYZ": 0.1}, "unknown statement 'XYZ'"),
        ({"IMI": -0.1}, "prevalence of IMI: found -0.1"),
        ({"IMI": 1.1}, "prevalence of IMI: found 1.1"),
        ({"IMI": np.nan}, "prevalence of IMI: found nan"),
        ({"IMI": "many"}, "prevalence of IMI: found 'many'"),
        ({"IMI": True}, "prevalence of IMI: found True"),
        (["IMI"], "shares by statement"),
        ({"AFIB": 0.6, "SR": 0.5}, "one basic rhythm"),
        ({"AFIB": 0.4, "SR": 0.4, "PACE": 0.4}, "one basic rhythm"),
        ({"NORM": 0.6, "IMI": 0.5}, "a normal ECG shows no disease"),
        ({"CLBBB": 0.4, "CRBBB": 0.4, "IVCD": 0.4}, "contradict one another"),
    ],
)
def test_prevalence_errors(prevalence, message):
    with pytest.raises(ValueError, match=message):
        draw(*numbers(3), prevalence)


# --- contradictions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codes",
    ["AFIB 1AVB", "AFIB SR", "AFIB PAC", "CLBBB CRBBB", "NORM IMI", "NORM LVH", "LVOLT HVOLT",
     "SBRAD STACH", "LAFB LPFB", "PACE CLBBB", "3AVB 1AVB", "WPW LPR"],
)  # fmt: skip
def test_check_names_the_two_and_why(codes):
    a, b = codes.split()
    for pair in ([a, "QWAVE", b], [b, a]):
        with pytest.raises(ValueError, match=rf"({a} contradicts {b}|{b} contradicts {a}): \w+"):
            check(pair)


def test_check_lets_pass_what_can_be():
    for codes in ("", "SR NORM IRBBB PVC", "AFIB IMI ASMI CRBBB LAFB", "LVH ISC_ STD_ LNGQT SBRAD"):
        check(codes.split())
    with pytest.raises(ValueError, match="unknown statement 'MI', expected one of NDT"):
        check(["MI"])
    with pytest.raises(ValueError, match="found the text 'IMI'"):
        check("IMI")


# --- what the reader writes ---------------------------------------------------------------------


def test_a_reader_who_never_errs(drawn, true):
    u = np.random.default_rng(2).random(true.shape)
    assert (read(drawn[2], true.to_numpy(), u, 0) == true.to_numpy()).all()


@pytest.mark.parametrize("rate", [0.03, 0.2])
def test_rate_of_errors(drawn, true, rate):
    u, true = np.random.default_rng(2).random(true.shape), true.to_numpy()
    labels = read(drawn[2], true, u, rate)
    graded = ~RHYTHM & (np.array(STATEMENTS) != "NORM")
    lost = true & ~labels
    assert abs(lost[:, graded].sum() / true[:, graded].sum() / rate - 1) < 0.1
    severity = drawn[2]
    mild, plain = (true & graded & m for m in (severity < 0.4, severity > 0.9))
    assert lost[mild].mean() > 1.4 * lost[plain].mean() > 0
    assert abs(lost[:, RHYTHM].sum() / true[:, RHYTHM].sum() / (0.1 * rate) - 1) < 0.35
    assert (labels & ~true)[:, graded].sum() > 0.15 * lost[:, graded].sum()
    rhythms = [AT[c] for c in people.RHYTHMS]
    assert (labels[:, rhythms].sum(axis=1) == true[:, rhythms].sum(axis=1)).all()


def test_labels_do_not_contradict_one_another(drawn, true):
    labels = read(drawn[2], true.to_numpy(), np.random.default_rng(3).random(true.shape), 0.3)
    together = labels.T.astype(int) @ labels.astype(int)
    assert not together[people._CONTRADICT].any()


def test_one_reading_by_hand():
    true = np.zeros((4, len(STATEMENTS)), bool)
    true[:3, AT["IMI"]], true[:, AT["SR"]], true[3, AT["NORM"]] = True, True, True
    true[2, AT["LVH"]] = True
    u = np.ones(true.shape)
    u[0, AT["IMI"]], u[1, AT["IMI"]], u[2, AT["IMI"]] = 0.2, 0.4, 0.4
    labels = read(true * 0.65, true, u, 0.5)

    def written(row):
        return {code for code in STATEMENTS if labels[row, AT[code]]}

    assert written(0) == {"LAFB", "SR"}  # taken for it
    assert written(1) == {"NORM", "SR"}  # the only disease is missed
    assert written(2) == {"LVH", "SR"}
    assert written(3) == {"NORM", "SR"}


def test_every_statement_is_confused_with_another():
    pairs = dict(pair.split(":") for pair in people._CONFUSED.split())
    assert set(pairs) == set(STATEMENTS) and set(pairs.values()) <= set(STATEMENTS)
    assert all(a != b for a, b in pairs.items())


def test_read_errors(drawn, true):
    severity, true = drawn[2][:5], true.to_numpy()[:5]
    u = np.full(true.shape, 0.5)
    for rate in (-0.1, 0.51, np.nan, "x", None, True):
        with pytest.raises(ValueError, match="rate: found"):
            read(severity, true, u, rate)
