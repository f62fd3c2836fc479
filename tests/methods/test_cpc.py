import pytest
import torch

from ecgtutorial.losses import info_nce_ahead
from ecgtutorial.methods import Batch
from ecgtutorial.methods.cpc import CPC


def batch(n=4, time=100):
    signals = 0.3 * torch.randn(n, 12, time, generator=torch.Generator().manual_seed(0))
    return Batch(signals, torch.arange(n), torch.arange(n))


@pytest.mark.parametrize("ahead", [(3,), (1, 2, 3)])
def test_the_loss_is_info_nce_of_guesses_made_from_the_past(ahead):
    torch.manual_seed(0)
    method = CPC(ahead=ahead, n_negatives=9).eval()
    torch.manual_seed(1)
    loss, _ = method.loss(batch())
    local = method.encoder.local(batch().signals)
    context = method.encoder.context(local)[:, : local.shape[1] - 3]
    weights = method.predictor.weight.chunk(len(ahead))  # a layer of its own for each step
    guesses = torch.stack([context @ w.T for w in weights], dim=1)
    torch.manual_seed(1)
    expected = info_nce_ahead(guesses, local, ahead, 9)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guess, expected", [("true", 1.0), ("none", 0.0)])
def test_accuracy_is_how_often_the_true_moment_wins(guess, expected):
    method = CPC(ahead=(1,), n_negatives=40)
    method.encoder.local = lambda signals: torch.eye(25).repeat(len(signals), 1, 1)
    now = torch.eye(25).roll(1, 1) if guess == "true" else torch.zeros(25, 25)
    method.encoder.context = lambda local: now.repeat(len(local), 1, 1)
    method.predictor = torch.nn.Identity()
    _, parts = method.loss(batch())
    assert parts["accuracy"] == expected  # a tie is no win


def test_chance_at_the_start():
    torch.manual_seed(0)
    method = CPC(n_negatives=9)
    _, parts = method.loss(batch(16, 250))
    assert 0.02 < float(parts["accuracy"]) < 0.3
    assert not parts["accuracy"].requires_grad


def test_every_weight_learns_through_guess_and_truth():
    method = CPC(n_negatives=9)
    method.loss(batch())[0].backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_a_crop_without_a_future_is_named():
    with pytest.raises(ValueError, match="for 3 tokens and steps"):
        CPC().loss(batch(time=12))
