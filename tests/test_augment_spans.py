"""Hidden spans of samples and shuffled leads (paper C)."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ecgtutorial.augment import hidden_spans, shuffle_leads


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spans(row):
    """(first, last + 1) of each run of hidden samples."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
    return edges.reshape(-1, 2)


# --- spans ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio, seconds", [(0.2, (0.2, 0.5)), (0.6, (0.2, 0.5)), (0.4, (0.1, 1))])
def test_the_ratio_is_hidden_at_every_moment(ratio, seconds):
    n, fs = 500, 50
    hidden = hidden_spans((n, 12, 100), fs, ratio, seconds, generator=generator())
    assert hidden.shape == (n, 12, 100) and hidden.dtype == torch.bool
    found = hidden.float().mean(dim=(0, 1))  # of each sample, the first and the last too
    atol = 4.5 * math.sqrt(ratio * (1 - ratio) / (12 * n))
    np.testing.assert_allclose(found, ratio, atol=atol + 0.01)  # 0.01: see the next test
    np.testing.assert_allclose(hidden.float().mean(), ratio, atol=0.015)


@pytest.mark.parametrize(
    "ratio, seconds", [(0.2, (0.2, 0.5)), (0.8, (0.1, 0.6)), (0.5, (0.3, 0.3))]
)
def test_the_share_is_that_of_all_spans_that_could_cover_a_sample(ratio, seconds):
    n, fs = 20_000, 20
    shortest, longest = (round(s * fs) for s in seconds)
    lengths = range(shortest, longest + 1)
    p = 1 - (1 - ratio) ** (1 / np.mean(lengths))
    visible = 1.0
    for back in range(longest):  # a span that begins so many samples earlier reaches the sample
        visible *= 1 - p * np.mean([length > back for length in lengths])
    hidden = hidden_spans((n, 1, 30), fs, ratio, seconds, generator=generator())
    atol = 4.5 * math.sqrt(ratio * (1 - ratio) / n)
    np.testing.assert_allclose(hidden[:, 0].float().mean(dim=0), 1 - visible, atol=atol)
    assert abs(1 - visible - ratio) < 0.01


def test_a_span_alone_is_of_every_length_between_the_limits():
    shape, fs, shortest, longest = (600, 12, 400), 100, 20, 50
    inside, cut = [], []
    for row in hidden_spans(shape, fs, 0.005, generator=generator()).flatten(0, 1).int().numpy():
        for first, last in spans(row):
            (inside if 0 < first and last < 400 else cut).append(last - first)
    counts = np.bincount(inside)
    assert len(inside) > 300 and np.flatnonzero(counts)[0] == shortest
    assert counts[longest + 1 :].sum() < 0.02 * len(inside)  # two that touch
    assert chisquare(counts[shortest : longest + 1]).pvalue > 1e-3
    assert min(cut) < shortest  # spans begin before the first sample, and are cut off at the last


def test_one_length_gives_spans_of_that_length_or_touching_ones():
    hidden = hidden_spans((200, 1, 300), 100, 0.2, (0.1, 0.1), generator=generator())
    lengths = [
        last - first
        for row in hidden[:, 0].int().numpy()
        for first, last in spans(row)
        if 0 < first and last < 300
    ]
    assert min(lengths) == 10 and max(lengths) > 10


def test_who_shares_spans():
    shape = (400, 12, 200)
    alone, limb, common = (
        hidden_spans(shape, 100, 0.3, leads=leads, generator=generator())
        for leads in ("independent", "limb", "common")
    )
    assert bool((common == common[:, :1]).all())
    assert bool((limb[:, :6] == limb[:, :1]).all())
    for hidden, rows in ((alone, range(12)), (limb, (0, *range(6, 12)))):
        for other in [row for row in rows if row]:  # apart: both hidden in 0.3 x 0.3
            both = (hidden[:, 0] & hidden[:, other]).float().mean()
            assert abs(float(both) - 0.09) < 0.03, other
    for hidden in (alone, limb, common):  # records never share theirs
        both = (hidden[:-1] & hidden[1:]).float().mean()
        assert abs(float(both) - 0.09) < 0.03
        assert abs(float(hidden.float().mean()) - 0.3) < 0.02


@pytest.mark.parametrize("leads", ["independent", "limb", "common"])
def test_nothing_or_everything(leads):
    assert not hidden_spans((3, 12, 100), 100, 0, leads=leads).any()
    assert bool(hidden_spans((3, 12, 100), 100, 1, leads=leads).all())
    assert bool(hidden_spans((3, 12, 50), 100, 1.0, leads=leads).all())  # as long as a record


def test_a_low_rate_hides_single_samples():
    hidden = hidden_spans((50, 1, 40), 1, 0.3, (0.2, 0.4), generator=generator())
    assert 0.2 < float(hidden.float().mean()) < 0.4


def test_any_number_of_leads_but_not_for_limb_leads():
    assert hidden_spans((2, 8, 100), 100, 0.3).shape == (2, 8, 100)
    assert hidden_spans((2, 1, 100), 100, 0.3, leads="common").shape == (2, 1, 100)
    for n_leads in (1, 8):  # the first six of eight are not the limb leads
        with pytest.raises(ValueError, match=f"'limb' for {n_leads} leads"):
            hidden_spans((2, n_leads, 100), 100, 0.3, leads="limb")


@pytest.mark.parametrize("leads", ["independent", "limb", "common"])
def test_a_generator_repeats_the_spans(leads):
    def drawn(seed=None):
        given = None if seed is None else generator(seed)
        return hidden_spans((4, 12, 200), 100, 0.4, leads=leads, generator=given)

    state = torch.random.get_rng_state()
    first = drawn(1)
    assert torch.equal(first, drawn(1)) and not torch.equal(first, drawn(2))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, drawn())


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan")])
def test_a_ratio_that_is_none_is_named(ratio):
    with pytest.raises(ValueError, match=f"ratio is {ratio}"):
        hidden_spans((2, 12, 100), 100, ratio)


@pytest.mark.parametrize("seconds", [(0.5, 0.2), (0.2, 1.1)])
def test_spans_that_do_not_fit_are_named(seconds):
    with pytest.raises(ValueError, match=rf"spans are \({seconds[0]}, {seconds[1]}\) s in 1 s"):
        hidden_spans((2, 12, 100), 100, 0.3, seconds)


def test_other_words_are_named():
    with pytest.raises(ValueError, match="leads is 'chest' for 12 leads"):
        hidden_spans((2, 12, 100), 100, 0.3, leads="chest")


# --- leads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 1 / 6, 1 / 3, 0.5, 1.0])
def test_numbers_say_which_lead_stands_where(share):
    signals = torch.randn(60, 12, 5, generator=generator())
    before = signals.clone()
    shuffled, numbers = shuffle_leads(signals, share, generator(1))
    assert shuffled.shape == signals.shape and numbers.shape == (60, 12)
    assert numbers.dtype == torch.long
    for b in range(60):
        assert sorted(numbers[b].tolist()) == list(range(12))
        for p in range(12):
            assert torch.equal(shuffled[b, p], signals[b, numbers[b, p]])
    assert torch.equal(signals, before)  # the input is never written to


@pytest.mark.parametrize("share, most", [(0.0, 0), (0.05, 1), (1 / 6, 2), (1 / 3, 4), (1.0, 12)])
def test_so_many_leads_are_dealt_out_anew_and_one_of_them_stays_on_average(share, most):
    n = 4000
    _, numbers = shuffle_leads(torch.zeros(n, 12, 1), share, generator())
    moved = numbers != torch.arange(12)
    assert moved.sum(dim=1).max() <= most and (most < 2 or moved.sum(dim=1).max() == most)
    expected = max(0, most - 1)  # a random permutation has one fixed point, of variance one
    np.testing.assert_allclose(moved.sum(dim=1).double().mean(), expected, atol=4.5 / np.sqrt(n))
    # Every place is as likely to lose its lead as any other.
    p = expected / 12
    atol = 4.5 * np.sqrt(p * (1 - p) / n) + 1e-12
    np.testing.assert_allclose(moved.double().mean(dim=0), p, atol=atol)


def test_all_orders_of_four_leads_are_equally_likely():
    _, numbers = shuffle_leads(torch.zeros(12_000, 4, 1), 1.0, generator())
    orders = {order: i for i, order in enumerate(permutations(range(4)))}
    counts = np.bincount([orders[tuple(row)] for row in numbers.tolist()], minlength=24)
    assert chisquare(counts).pvalue > 1e-3


def test_all_pairs_of_five_leads_are_exchanged_equally_often():
    _, numbers = shuffle_leads(torch.zeros(12_000, 5, 1), 0.4, generator())
    moved = numbers != torch.arange(5)
    counts = {}
    for row in moved[moved.any(dim=1)].tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    assert len(counts) == 10 and chisquare(list(counts.values())).pvalue > 1e-3
    swapped = moved.any(dim=1).double().mean()  # the two keep their places in half of the cases
    np.testing.assert_allclose(swapped, 0.5, atol=4.5 * 0.5 / np.sqrt(12_000))


def test_a_generator_repeats_the_order():
    signals = torch.randn(6, 12, 4)
    state = torch.random.get_rng_state()
    first = shuffle_leads(signals, generator=generator(1))
    assert all(map(torch.equal, first, shuffle_leads(signals, generator=generator(1))))
    assert not torch.equal(first[1], shuffle_leads(signals, generator=generator(2))[1])
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(1)
    assert all(map(torch.equal, first, shuffle_leads(signals)))


def test_a_gradient_finds_its_lead():
    signals = torch.randn(3, 12, 4, requires_grad=True)
    shuffled, numbers = shuffle_leads(signals, generator=generator())
    weight = torch.arange(12.0)[:, None]
    (shuffled * weight).sum().backward()
    for b in range(3):
        for p in range(12):
            assert bool((signals.grad[b, numbers[b, p]] == p).all())


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_named(share):
    with pytest.raises(ValueError, match=f"share is {share}"):
        shuffle_leads(torch.zeros(2, 12, 10), share)


def test_what_are_no_signals_is_named():
    with pytest.raises(ValueError, match=r"shape \(12, 100\)"):
        shuffle_leads(torch.zeros(12, 100))
    with pytest.raises(ValueError, match="dtype torch.int16"):
        shuffle_leads(torch.zeros(2, 12, 100, dtype=torch.int16))
