import pytest
import torch

from ecgtutorial import encoders
from ecgtutorial.encoders.single_lead import parameter_count
from ecgtutorial.methods.cpc import CPC

PAPER_B = ("xresnet1d50", "xresnet1d50-small", "cpc", "cpc-strided", "cpc-small")


@pytest.mark.parametrize(
    "name, n_parameters",
    [("xresnet1d50", 886_400), ("cpc", 4_999_168), ("single-lead", 150_784)],
)
def test_paper_sizes(name, n_parameters):
    assert parameter_count(encoders.build(name)) == n_parameters


def test_the_predictor_completes_the_cpc_network():
    assert parameter_count(CPC(encoder="cpc")) == 4_999_168 + 512 * 512  # 5.26 million


@pytest.mark.parametrize("name", encoders.NAMES)
def test_shapes_and_gradients_of_every_parameter(name):
    encoder = encoders.build(name)
    signals = torch.randn(3, 12, 250)
    features, tokens = encoder(signals), encoder.tokens(signals)
    assert features.shape == (3, encoder.width)
    assert tokens.shape[0] == 3 and tokens.ndim == 3
    features.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("name", encoders.NAMES)
def test_a_record_does_not_depend_on_its_neighbours(name):
    encoder = encoders.build(name).eval()
    signals = torch.randn(4, 12, 250)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(signals)[1:2], encoder(signals[1:2]), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", PAPER_B)
def test_layer_groups_hold_each_parameter_once(name):
    encoder = encoders.build(name)
    grouped = [id(p) for group in encoder.layer_groups() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in encoder.parameters())


def test_a_residual_block_adds_nothing_at_first():
    block = encoders.xresnet._Block(256, 64)
    x = torch.randn(2, 256, 16).relu()
    torch.testing.assert_close(block(x), x)


def test_one_feature_every_32_samples():
    assert encoders.build("xresnet1d50").tokens(torch.randn(1, 12, 320)).shape == (1, 10, 256)


@pytest.mark.parametrize("name", ["cpc-small", "cpc-strided"])
def test_the_context_does_not_see_the_future(name):
    encoder = encoders.build(name).eval()
    signals = torch.randn(1, 12, 240)
    changed = signals.clone()
    changed[:, :, 160:] += 1
    with torch.no_grad():
        before, after = encoder.tokens(signals), encoder.tokens(changed)
    same = (before == after).all(dim=2)[0]
    first = int((~same).int().argmax())  # the first token that notices
    assert first >= 160 // encoder.stride - 2
    assert same[:first].all() and not same[first:].any()


def test_the_point_wise_encoder_looks_at_one_moment():
    encoder = encoders.RecurrentEncoder(channels=8, hidden=8).eval()
    signals = torch.randn(1, 12, 20)
    changed = signals.clone()
    changed[:, :, 7] += 1
    with torch.no_grad():
        moved = (encoder.local(signals) != encoder.local(changed)).any(dim=2)[0]
    assert moved.nonzero().flatten().tolist() == [7]


def test_leads_are_divided_by_their_deviation():
    encoder = encoders.RecurrentEncoder(channels=8, hidden=8)
    one = torch.tensor(encoders.recurrent.LEAD_STD)[None, :, None].expand(1, 12, 5)
    seen = {}
    encoder.layers[0].register_forward_hook(lambda m, args, out: seen.update(x=args[0]))
    encoder.local(one)
    torch.testing.assert_close(seen["x"], torch.ones(1, 12, 5))


def test_readout_is_mean_maximum_and_last():
    encoder = encoders.build("cpc-small").eval()
    signals = torch.randn(2, 12, 100)
    with torch.no_grad():
        tokens, features = encoder.tokens(signals), encoder(signals)
    parts = [tokens.mean(dim=1), tokens.amax(dim=1), tokens[:, -1]]
    torch.testing.assert_close(features, torch.cat(parts, dim=1))


@pytest.mark.parametrize("name", PAPER_B)
def test_wrong_number_of_leads(name):
    with pytest.raises(ValueError, match=r"shape \(2, 8, 250\).*12"):
        encoders.build(name)(torch.randn(2, 8, 250))


def test_unknown_name():
    with pytest.raises(ValueError, match="'resnet'.*xresnet1d50"):
        encoders.build("resnet")


def test_kernels_and_strides_go_together():
    with pytest.raises(ValueError, match="2 kernels and 1 strides"):
        encoders.RecurrentEncoder(kernels=(1, 1), strides=(1,))
