"""Losses of paper A: masked moments, use of codes, two segments of one recording."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn import functional as F

from ecgtutorial.losses import code_diversity, masked_logits, nt_xent, segment_contrast


def random_case(seed=0, n=3, n_tokens=12, features=5):
    generator = torch.Generator().manual_seed(seed)
    context, quantized = (torch.randn(n, n_tokens, features, generator=generator) for _ in "ab")
    masked = torch.rand(n, n_tokens, generator=generator) < 0.5
    masked[:, [2, 7]] = True
    codes = torch.randint(2, (n, n_tokens, 2), generator=generator)  # four targets to be had
    return context, quantized, masked, codes


def slow_masked_logits(context, quantized, masked, codes, draw, temperature):
    """Token by token, in 64 bits; `draw` (masked token, negative), uniform in [0, 1)."""
    rows, draw = [], iter(draw)
    for n in range(len(masked)):
        hidden = [t for t in range(masked.shape[1]) if masked[n, t]]
        for t in hidden:
            others = [k for k in hidden if k != t]
            row = []
            for k in [t] + [others[int(u * len(others))] for u in next(draw)]:
                a, b = context[n, t].double(), quantized[n, k].double()
                score = (a @ b / a.norm() / b.norm()).item() / temperature
                alike = k != t and codes is not None and bool((codes[n, k] == codes[n, t]).all())
                row.append(-math.inf if alike else score)
            rows.append(row)
    return np.array(rows)


# --- masked moments ---------------------------------------------------------------------------


@pytest.mark.parametrize("with_codes", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_masked_logits_equal_the_slow_loop(with_codes, temperature):
    context, quantized, masked, codes = random_case()
    codes = codes if with_codes else None
    torch.manual_seed(4)
    logits = masked_logits(context, quantized, masked, codes, 9, temperature)
    torch.manual_seed(4)
    draw = torch.rand(int(masked.sum()), 9)
    slow = slow_masked_logits(context, quantized, masked, codes, draw, temperature)
    np.testing.assert_allclose(logits, slow, rtol=1e-4, atol=1e-5)
    assert np.isinf(slow).any() == with_codes


def drawn(masked, n_negatives):
    """Which tokens each masked token is held against, as 100 x recording + token.

    Every target has an angle of its own, and every guess points to angle 0.
    """
    n, n_tokens = masked.shape
    number = 100 * torch.arange(n)[:, None] + torch.arange(n_tokens)
    angle = number / 100 + 0.1
    quantized = torch.stack([angle.cos(), angle.sin()], dim=2)
    context = torch.tensor([1.0, 0.0]).expand(n, n_tokens, 2)
    scores = masked_logits(context, quantized, masked, None, n_negatives, 1.0)
    return ((scores.clamp(-1, 1).acos() - 0.1) * 100).round().long()


def test_negatives_are_the_other_masked_tokens_of_the_recording_alike():
    torch.manual_seed(0)
    masked = torch.zeros(3, 30, dtype=torch.bool)
    masked[0, [0, 3, 4, 11, 29]] = True
    masked[1, [7, 8]] = True
    masked[2] = True
    found, row = drawn(masked, 3000), 0
    for n in range(3):
        hidden = (100 * n + masked[n].nonzero().flatten()).tolist()
        for token in hidden:
            others = [k for k in hidden if k != token]
            assert found[row, 0] == token  # the true one comes first
            counts = [int((found[row, 1:] == k).sum()) for k in others]
            assert sum(counts) == 3000, "a negative is no other masked token of the recording"
            assert len(others) == 1 or chisquare(counts).pvalue > 1e-4
            row += 1
    assert row == len(found) == 37


def test_each_guess_has_negatives_of_its_own():
    moments = drawn(torch.ones(1, 40, dtype=torch.bool), 20)[:, 1:]
    moments = moments.sort(dim=1).values
    assert len(torch.unique(moments, dim=0)) == 40


def test_equal_embeddings_cost_the_log_of_all_candidates():
    masked = random_case()[2]
    same = torch.ones(3, 12, 4)
    logits = masked_logits(same, 3 * same, masked, None, 100, 0.1)
    torch.testing.assert_close(logits, torch.full_like(logits, 10.0))  # a cosine of 1 over 0.1
    loss = -logits.log_softmax(dim=1)[:, 0].mean()
    np.testing.assert_allclose(loss, math.log(101), rtol=1e-6)


def test_a_perfect_guess_among_orthogonal_targets():
    masked = torch.ones(2, 6, dtype=torch.bool)
    targets = torch.eye(6).expand(2, 6, 6)
    logits = masked_logits(targets, targets, masked, None, 100, 0.1)
    loss = -logits.log_softmax(dim=1)[:, 0].mean()
    np.testing.assert_allclose(loss, math.log(1 + 100 * math.exp(-10)), rtol=1e-3)


def test_codes_that_cannot_be_told_apart_are_no_negatives():
    context, quantized, masked, codes = random_case()
    logits = masked_logits(context, quantized, masked, torch.zeros_like(codes), 20)
    assert logits[:, 0].isfinite().all() and logits[:, 1:].isinf().all()
    assert float(-logits.log_softmax(dim=1)[:, 0].sum()) == 0
    torch.manual_seed(1)
    all_codes = torch.arange(36).view(3, 12, 1).expand(3, 12, 2)
    told = masked_logits(context, quantized, masked, all_codes, 20)
    torch.manual_seed(1)
    assert torch.equal(told, masked_logits(context, quantized, masked, None, 20))
    half = codes.clone()
    half[..., 1] = torch.arange(12)  # the same code in one group of two is not the same target
    assert masked_logits(context, quantized, masked, half, 20).isfinite().all()


def test_the_gradient_reaches_guesses_and_targets_that_are_masked_and_no_others():
    context, quantized, masked, codes = random_case()
    context.requires_grad_(), quantized.requires_grad_()
    logits = masked_logits(context, quantized, masked, codes, 50)
    (-logits.log_softmax(dim=1)[:, 0].mean()).backward()
    for gradient in (context.grad, quantized.grad):
        assert gradient.isfinite().all()
        assert bool((gradient[masked].abs().amax(dim=1) > 0).all())
        assert not gradient[~masked].any()


def test_temperature_divides_and_length_does_not_matter():
    context, quantized, masked, codes = random_case()
    logits = []
    for scale, temperature in ((1, 0.1), (7, 0.1), (1, 0.5)):
        torch.manual_seed(2)
        logits.append(masked_logits(scale * context, quantized, masked, codes, 9, temperature))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[0], 5 * logits[2], rtol=1e-4, atol=1e-5)


def test_recordings_that_give_no_negatives_and_shapes_that_differ_are_named():
    context, quantized, masked, codes = random_case()
    few = masked.clone()
    few[1] = torch.arange(12) == 3
    with pytest.raises(ValueError, match="fewer than two masked tokens"):
        masked_logits(context, quantized, few, codes)
    with pytest.raises(ValueError, match=r"quantized \(3, 12, 4\).*expected \(batch, token, feat"):
        masked_logits(context, quantized[..., :4], masked)
    with pytest.raises(ValueError, match=r"masked \(3, 11\)"):
        masked_logits(context, quantized, masked[:, :11])


# --- use of codes -----------------------------------------------------------------------------


@pytest.mark.parametrize("groups, codes", [(2, 320), (1, 4)])
def test_code_diversity_of_even_and_of_single_use(groups, codes):
    even = torch.full((groups, codes), 1 / codes)
    np.testing.assert_allclose(code_diversity(even), 0, atol=1e-4)
    single = F.one_hot(torch.arange(groups), codes).float()
    np.testing.assert_allclose(code_diversity(single), 1 - 1 / codes, atol=1e-6)


def test_code_diversity_counts_the_codes_in_use():
    usage = torch.zeros(2, 8)
    usage[0, :2], usage[1, 2:6] = 1 / 2, 1 / 4  # perplexities 2 and 4, of 16 codes
    np.testing.assert_allclose(code_diversity(usage), 1 - 6 / 16, atol=1e-5)
    logits = torch.tensor([[2.0, 0, 0, 0]], requires_grad=True)
    code_diversity(logits.softmax(dim=1)).backward()
    assert logits.grad[0, 0] > 0 and bool((logits.grad[0, 1:] < 0).all())  # evens them out


# --- two segments -----------------------------------------------------------------------------


def slow_segment_contrast(first, second, temperature):
    first, second = (F.normalize(x.double(), dim=1) for x in (first, second))
    terms = []
    for a, b in ((first, second), (second, first)):
        for i in range(len(a)):
            scores = [math.exp(a[i] @ b[j] / temperature) for j in range(len(b))]
            terms.append(-math.log(scores[i] / sum(scores)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_segment_contrast_equals_the_slow_loop_and_ignores_side_order_and_length(temperature):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(7, 5, generator=generator) for _ in "ab")
    loss = segment_contrast(first, second, temperature)
    np.testing.assert_allclose(loss, slow_segment_contrast(first, second, temperature), rtol=1e-5)
    np.testing.assert_allclose(segment_contrast(second, first, temperature), loss, rtol=1e-5)
    order = torch.randperm(7, generator=generator)
    shuffled = segment_contrast(3 * first[order], 0.2 * second[order], temperature)
    np.testing.assert_allclose(shuffled, loss, rtol=1e-5)


def test_segment_contrast_closed_forms():
    ones = torch.ones(9, 4)
    np.testing.assert_allclose(segment_contrast(ones, 2 * ones), math.log(9), rtol=1e-6)
    apart = torch.eye(9)
    np.testing.assert_allclose(segment_contrast(apart, apart, 0.01), 0, atol=1e-6)
    expected = math.log(1 + 8 * math.exp(-2))
    np.testing.assert_allclose(segment_contrast(apart, apart, 0.5), expected, rtol=1e-6)
    assert float(segment_contrast(apart[:1], apart[1:2])) == 0  # alone, nobody is mistaken


def test_only_the_papers_text_pushes_first_halves_apart():
    first = torch.ones(6, 4)  # all first halves alike, and alike to the second ones
    pair = torch.arange(6).repeat(2)
    both = nt_xent(torch.cat([first, first]), pair, 0.1)
    np.testing.assert_allclose(both, math.log(11), rtol=1e-6)
    np.testing.assert_allclose(segment_contrast(first, first), math.log(6), rtol=1e-6)


def test_segments_of_different_shapes_are_named():
    with pytest.raises(ValueError, match=r"first \(4, 3\) and second \(5, 3\)"):
        segment_contrast(torch.zeros(4, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="expected one shape"):
        segment_contrast(torch.zeros(2, 4, 3), torch.zeros(2, 4, 3))


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: masked_logits(x[None], x.flip(0)[None], torch.ones(1, 32) > 0, None, 9),
        lambda x: code_diversity(x.softmax(dim=1)),
        lambda x: segment_contrast(x, x.flip(1)),
    ],
    ids=["masked", "diversity", "segments"],
)
def test_they_compute_in_32_bits_whatever_is_around_them(loss):
    x = torch.randn(32, 16).bfloat16()
    found = []
    for around in (True, False):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            found.append(loss(x if around else x.float()))
    assert found[0].dtype == torch.float32
    np.testing.assert_allclose(found[0], found[1], rtol=2e-2, atol=2e-2)
