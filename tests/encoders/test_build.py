"""Sizes of the networks of `encoders.build`, and whether every weight of them can learn."""

import pytest
import torch

from ecgtutorial import encoders

# name -> width, tokens of 2.5 s at 100 Hz, features of a token
SHAPES = {
    "single-lead": (256, 16, 256),
    "xresnet1d50": (512, 8, 256),
    "xresnet1d50-small": (256, 8, 128),
    "cpc": (1536, 250, 512),
    "cpc-strided": (1536, 15, 512),
    "cpc-small": (384, 62, 128),
    "cpc-s4": (384, 62, 128),
    "transformer": (768, 62, 768),
    "transformer-small": (96, 31, 96),
}


@pytest.fixture(scope="module", params=encoders.NAMES)
def built(request):
    torch.manual_seed(0)
    return request.param, encoders.build(request.param)


def signals(n_leads=12):
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(3, n_leads, 250, generator=generator)


def test_vector_and_tokens(built):
    name, encoder = built
    width, n_tokens, features = SHAPES[name]
    assert encoder.width == width
    assert encoder(signals()).shape == (3, width)
    assert encoder.tokens(signals()).shape == (3, n_tokens, features)


def test_layer_groups_begin_at_the_input(built):
    _, encoder = built
    if hasattr(encoder, "layer_groups"):
        assert encoder.layer_groups()[0][0].shape[1] == 12
        assert min(map(len, encoder.layer_groups())) > 0


def test_no_weight_is_out_of_the_gradients_reach(built):
    _, encoder = built
    encoder.zero_grad()
    # A residual block starts with a scale of 0, which keeps the gradient from its convolutions.
    for parameter in encoder.parameters():
        if parameter.ndim == 1 and not parameter.any():
            torch.nn.init.normal_(parameter.data)
    (encoder(signals()) @ torch.randn(encoder.width)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_fewer_leads():
    for name in encoders.NAMES:
        encoder = encoders.build(name, n_leads=2)
        assert encoder(signals(n_leads=2)).shape == (3, encoder.width)
