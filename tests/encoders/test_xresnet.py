import pytest
import torch

from ecgtutorial.encoders.xresnet import XResNet1d, _Block


def test_no_convolution_has_a_bias_that_batch_normalisation_takes_out_again():
    convolutions = [m for m in XResNet1d().modules() if isinstance(m, torch.nn.Conv1d)]
    assert len(convolutions) == 3 + 3 * 16 + 1  # stem, three a block, one shortcut that widens
    assert all(m.bias is None for m in convolutions)


@pytest.mark.parametrize("before, stride", [(64, 1), (256, 1), (256, 2)])
@pytest.mark.parametrize("time", [20, 21])
def test_a_block_starts_as_its_shortcut(before, stride, time):
    block = _Block(before, 64, stride)
    x = torch.randn(2, before, time)
    with torch.no_grad():
        out = block.eval()(x)
        assert out.shape == (2, 256, -(-time // stride))
        assert torch.equal(out, torch.relu(block.shortcut(x)))
        if before == 256 and stride == 1:
            assert torch.equal(block(x.relu()), x.relu())  # the identity


def test_a_token_covers_32_samples():
    encoder = XResNet1d(channels=8, blocks=(1, 1, 1, 1)).eval()
    for time in (32, 250, 251, 1000):
        assert encoder.tokens(torch.randn(1, 12, time)).shape == (1, -(-time // 32), 32)


def test_the_vector_is_maximum_and_mean_of_the_tokens():
    encoder = XResNet1d(channels=8, blocks=(1, 1, 1, 1)).eval()
    signals = torch.randn(2, 12, 250)
    with torch.no_grad():
        tokens = encoder.tokens(signals)
        expected = torch.cat([tokens.amax(dim=1), tokens.mean(dim=1)], dim=1)
        torch.testing.assert_close(encoder(signals), expected)


def test_what_lies_far_away_in_time_does_not_matter():
    encoder = XResNet1d(channels=8, blocks=(1, 1, 1, 1)).eval()
    signals = torch.randn(1, 12, 2000)
    changed = signals.clone()
    changed[..., 1500:] += 1
    with torch.no_grad():
        same = encoder.tokens(signals) == encoder.tokens(changed)
    assert same[:, :30].all() and not same[:, 50:].all()
