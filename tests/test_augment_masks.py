"""Random lead masking and hidden spans of tokens (paper A)."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ecgtutorial import augment
from ecgtutorial.augment import random_lead_mask, span_mask


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def signals():
    return torch.randn(4000, 12, 3, generator=generator())


# --- leads ------------------------------------------------------------------------------------


def test_no_lead_or_every_lead(signals):
    before = signals.clone()
    assert torch.equal(random_lead_mask(signals, 0), signals)
    assert not random_lead_mask(signals, 1).any()
    assert torch.equal(signals, before)  # the input is never written to


def test_leads_go_whole(signals):
    masked = random_lead_mask(signals, 0.5, generator())
    gone = (masked == 0).all(dim=2)
    assert torch.equal(masked[~gone], signals[~gone])
    assert 0 < gone.sum() < gone.numel()


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_each_lead_of_each_record_has_its_own_chance(signals, p):
    gone = (random_lead_mask(signals, p, generator()) == 0).all(dim=2).double().numpy()
    n = len(gone)
    deviation = np.sqrt(p * (1 - p) / n)
    np.testing.assert_allclose(gone.mean(axis=0), p, atol=4 * deviation)
    correlation = np.corrcoef(gone.T)[np.triu_indices(12, 1)]
    assert np.abs(correlation).max() < 4.5 / np.sqrt(n)
    # Neighbouring records are not masked alike either.
    assert abs(np.corrcoef(gone[:-1].ravel(), gone[1:].ravel())[0, 1]) < 4 / np.sqrt(12 * n)
    np.testing.assert_allclose(gone.sum(axis=1).var(), 12 * p * (1 - p), rtol=0.1)


def test_a_generator_repeats_the_leads_and_a_chain_knows_them_by_name(signals):
    state = torch.random.get_rng_state()
    first = random_lead_mask(signals, generator=generator(3))
    assert torch.equal(first, random_lead_mask(signals, generator=generator(3)))
    assert not torch.equal(first, random_lead_mask(signals, generator=generator(4)))
    assert torch.equal(state, torch.random.get_rng_state())
    chained = augment.apply(signals, {"random_lead_mask": {"p": 0.5}}, generator=generator(3))
    assert torch.equal(first, chained)
    assert random_lead_mask(signals.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_a_chance_of_leads_that_is_none_is_named(signals, p):
    with pytest.raises(ValueError, match=f"p is {p}"):
        random_lead_mask(signals, p)


def test_leads_of_what_are_no_signals_are_named():
    with pytest.raises(ValueError, match=r"shape \(12, 100\)"):
        random_lead_mask(torch.zeros(12, 100))
    with pytest.raises(ValueError, match="dtype torch.int16"):
        random_lead_mask(torch.zeros(2, 12, 100, dtype=torch.int16))


# --- spans ------------------------------------------------------------------------------------


@pytest.mark.parametrize("p, span", [(0.065, 10), (0.3, 2), (0.05, 40)])
def test_a_token_is_hidden_as_often_as_the_formula_says_at_every_position(p, span):
    n, q = 10_000, 1 - p
    hidden = span_mask((n, 156), p, span, generator=generator())
    assert hidden.shape == (n, 156) and hidden.dtype == torch.bool
    share = 1 - q**span  # none of the `span` starts that would cover it
    atol = 4.5 * np.sqrt(share * (1 - share) / n)
    np.testing.assert_allclose(hidden.float().mean(dim=0), share, atol=atol)
    # Two neighbours share all their possible starts but one each.
    both = 1 - 2 * q**span + q ** (span + 1)
    found = (hidden[:, 1:] & hidden[:, :-1]).float().mean(dim=0)
    np.testing.assert_allclose(found, both, atol=4.5 * np.sqrt(both * (1 - both) / n))


def runs(row):
    """(first, last + 1) of each run of hidden tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
    return edges.reshape(-1, 2)


def test_a_run_inside_a_recording_is_a_span_or_longer():
    hidden = span_mask((300, 60), 0.04, 7, generator=generator())
    lengths, cut = [], []
    for row in hidden.int().numpy():
        for first, last in runs(row):
            (lengths if 0 < first and last < 60 else cut).append(last - first)
    assert min(lengths) == 7 and max(lengths) > 7
    assert min(cut) < 7  # spans begin before the first token, and are cut off after the last


@pytest.mark.parametrize("shape, p, span", [((5000, 4), 0.02, 2), ((5000, 20), 0.01, 10)])
def test_at_least_two_tokens_are_hidden(shape, p, span):
    hidden = span_mask(shape, p, span, generator=generator())
    assert hidden.sum(dim=1).min() >= 2


def test_without_a_start_one_span_is_put_anywhere():
    hidden = span_mask((6000, 15), 0, 4, generator=generator())
    assert bool((hidden.sum(dim=1) == 4).all())
    first = hidden.int().argmax(dim=1)
    assert bool((hidden.gather(1, first[:, None] + torch.arange(4))).all())  # in one piece
    assert chisquare(torch.bincount(first, minlength=12).numpy()).pvalue > 1e-3


def test_all_tokens_may_be_hidden():
    assert bool(span_mask((3, 12), 1.0, 2).all())
    assert bool(span_mask((3, 12), 0.0, 12).all())


def test_a_generator_repeats_the_spans():
    state = torch.random.get_rng_state()
    first = span_mask((8, 60), generator=generator(1))
    assert torch.equal(first, span_mask((8, 60), generator=generator(1)))
    assert not torch.equal(first, span_mask((8, 60), generator=generator(2)))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, span_mask((8, 60)))


@pytest.mark.parametrize("p, span", [(0.1, 1), (0.1, 31), (-0.1, 5), (1.1, 5), (float("nan"), 5)])
def test_a_span_that_does_not_fit_is_named(p, span):
    with pytest.raises(ValueError, match=f"p is {p}, span {span} for 30 tokens"):
        span_mask((2, 30), p, span)
