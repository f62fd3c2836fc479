import numpy as np
import pytest

from ecgtutorial import leads


def test_limb_leads_obey_einthoven_and_goldberger():
    i, ii = np.random.default_rng(0).normal(size=(2, 7))
    one, two, three, avr, avl, avf = leads.limb_leads(i, ii)
    np.testing.assert_allclose(one + three, two)
    np.testing.assert_allclose(avr + avl + avf, 0, atol=1e-12)
    np.testing.assert_allclose(avl - avr, 1.5 * i)  # aVL = LA - (RA + LL) / 2, and I = LA - RA


def test_expansion_agrees_with_limb_leads():
    eight = np.random.default_rng(1).normal(size=(8, 5))
    twelve = leads.EXPANSION @ eight
    np.testing.assert_allclose(twelve[:6], leads.limb_leads(eight[0], eight[1]))
    np.testing.assert_array_equal(twelve[6:], eight[2:])
    assert np.linalg.matrix_rank(leads.EXPANSION) == 8


def test_inverse_dower_is_the_pseudo_inverse_of_dower_to_three_decimals():
    gap = np.abs(np.linalg.pinv(leads.DOWER) - leads.INVERSE_DOWER).max()
    assert gap < 0.001


def test_kors_is_not_an_inverse_of_dower():
    product = leads.KORS @ leads.DOWER
    np.testing.assert_allclose(np.diag(product), [0.97, 1.005, 0.894], atol=0.01)
    assert np.abs(product - np.diag(np.diag(product))).max() > 0.3


def test_the_round_trip_through_the_vector_has_rank_three_of_eight():
    round_trip = leads.dower12() @ leads.inverse_dower12()
    assert np.linalg.matrix_rank(round_trip, tol=1e-6) == 3


def test_names_in_any_case_and_clear_errors():
    assert leads.canonical("AVR") == leads.canonical("avr ") == "aVR"
    assert leads.index(leads.SUBSETS[3]) == [0, 1, 7]
    with pytest.raises(ValueError, match="unknown lead 'MLII'.*expected one of"):
        leads.canonical("MLII")
    with pytest.raises(ValueError, match="sequence"):
        leads.index("II")
