"""Paper A's network against an independent slow version, and what each part of it is for."""

import math

import pytest
import torch

from ecgtutorial import encoders
from ecgtutorial.encoders import TransformerEncoder
from ecgtutorial.leads import SUBSETS, index
from ecgtutorial.methods import Batch
from ecgtutorial.methods.three_kg import ThreeKG


def small(kernel=8, **more):
    torch.manual_seed(0)
    encoder = TransformerEncoder(
        n_convs=2, channels=16, width=32, n_layers=2, n_heads=4, kernel=kernel, **more
    )
    for parameter in encoder.parameters():  # a bias of 0 or a scale of 1 would hide a mistake
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter.data, mean=0.5)
    return encoder.eval()


def signals(n=3, time=100, n_leads=12):
    return 0.3 * torch.randn(n, n_leads, time, generator=torch.Generator().manual_seed(1))


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def normalised(x, dim, layer):
    """Zero mean and unit variance along `dim`, then the layer's scale and shift of features."""
    x = (x - x.mean(dim, keepdim=True)) / (x.var(dim, correction=0, keepdim=True) + 1e-5).sqrt()
    return x * layer.weight + layer.bias


def slow_attention(layer, x):
    """Softmax of scaled dot products, head by head: maps (head, token, token) and the values."""
    attn, width = layer.self_attn, x.shape[1]
    q, k, v = (x @ attn.in_proj_weight.T + attn.in_proj_bias).split(width, dim=1)
    size, maps, out = width // attn.num_heads, [], []
    for head in range(attn.num_heads):
        part = slice(head * size, (head + 1) * size)
        maps.append((q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(dim=1))
        out.append(maps[-1] @ v[:, part])
    return torch.stack(maps), torch.cat(out, dim=1) @ attn.out_proj.weight.T + attn.out_proj.bias


def slow_position(encoder, x):
    """For each token a weighted sum of those around it, 16 groups of features apart."""
    v = encoder.position.parametrizations.weight.original1  # (width, width / 16, kernel)
    g = encoder.position.parametrizations.weight.original0
    weight = g * v / v.square().sum(dim=(0, 1), keepdim=True).sqrt()
    weight = weight.unflatten(0, (16, -1))  # (group, out, in, kernel)
    kernel = weight.shape[3]
    out = encoder.position.bias.repeat(len(x), 1)
    for t in range(len(x)):
        for k in range(kernel):
            other = t + k - kernel // 2
            if 0 <= other < len(x):
                groups = x[other].unflatten(0, (16, 1, -1))  # (group, 1, in)
                out[t] += (weight[..., k] * groups).sum(dim=2).flatten()
    return out


@torch.no_grad()
def slow_tokens(encoder, record):
    """One record (lead, time): tokens (token, width) and attention (layer, head, token, token)."""
    x, maps = record.T, []  # (time, feature)
    for number, conv in enumerate(m for m in encoder.convs if isinstance(m, torch.nn.Conv1d)):
        x = x[: len(x) // 2 * 2]
        x = x[0::2] @ conv.weight[:, :, 0].T + x[1::2] @ conv.weight[:, :, 1].T
        x = gelu(normalised(x, 0, encoder.convs[1]) if number == 0 else x)
    x = normalised(x, 1, encoder.norm) @ encoder.project.weight.T + encoder.project.bias
    if encoder.position is not None:
        x = x + gelu(slow_position(encoder, x))
    x = normalised(x, 1, encoder.position_norm)
    for layer in encoder.layers:
        found, attended = slow_attention(layer, x)
        maps.append(found)
        x = normalised(x + attended, 1, layer.norm1)
        inner = gelu(x @ layer.linear1.weight.T + layer.linear1.bias)
        x = normalised(x + inner @ layer.linear2.weight.T + layer.linear2.bias, 1, layer.norm2)
    return x, torch.stack(maps)


@pytest.mark.parametrize("kernel", [8, 5, 0])
@pytest.mark.parametrize("time", [100, 103])
def test_forward_and_attention_equal_a_slow_version(kernel, time):
    encoder = small(kernel)
    x = signals(time=time)
    maps = encoder.attention(x)
    assert maps.shape == (3, 2, 4, 25, 25) and not maps.requires_grad
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(3, 2, 4, 25))
    for number in range(3):
        tokens, attention = slow_tokens(encoder, x[number])
        torch.testing.assert_close(maps[number], attention, atol=1e-5, rtol=1e-4)
        with torch.no_grad():  # what an embedding runs: torch's fused layers
            torch.testing.assert_close(encoder.tokens(x)[number], tokens, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(encoder.tokens(x)[number], tokens, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            encoder(x)[number], tokens.mean(dim=0), atol=1e-4, rtol=1e-4, check_dtype=True
        )


def test_the_papers_network_makes_156_tokens_of_five_seconds():
    with torch.device("meta"):  # shapes without numbers
        encoder = encoders.build("transformer", fs=500)
        segments = torch.empty(2, 12, 2500)
        assert encoder.convolve(segments).shape == (2, 156, 256)
        assert encoder.tokens(segments).shape == (2, 156, 768)
        assert encoder(segments).shape == (2, encoder.width) == (2, 768)
    assert encoder.stride == 16 and len(encoder.layers) == 12
    assert encoder.layers[0].linear1.out_features == 3072
    assert encoder.layers[0].self_attn.num_heads == 12


@pytest.mark.parametrize(
    "name, fs, stride",
    [("transformer", 100, 4), ("transformer-small", 50, 4), ("transformer-small", 100, 8),
     ("transformer-small", 250, 16), ("transformer-small", 257, 16),
     ("transformer-small", 500, 32)],
)  # fmt: skip
def test_a_token_lasts_about_32_ms_and_twice_that_in_the_small_network(name, fs, stride):
    with torch.device("meta"):
        encoder = encoders.build(name, fs=fs)
        found = encoder.convolve(torch.empty(1, 12, 10 * stride + 1))
    assert encoder.stride == stride and found.shape == (1, 10, encoder.channels)
    target = 0.032 if name == "transformer" else 0.064
    assert abs(math.log2(stride / fs / target)) < 0.5  # no other power of two is closer


@pytest.mark.parametrize("n_leads", [6, 3, 2, 1])
def test_zeros_for_missing_leads_are_a_network_with_fewer_inputs(n_leads):
    there = index(SUBSETS[n_leads])
    whole, part = small(), small(n_leads=n_leads)
    weights = whole.state_dict()
    weights["convs.0.weight"] = weights["convs.0.weight"][:, there]
    part.load_state_dict(weights)
    x = signals()
    padded = torch.zeros_like(x)
    padded[:, there] = x[:, there]
    torch.testing.assert_close(whole.tokens(padded), part.tokens(x[:, there]), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(whole(padded), whole(x), atol=1e-2)


def test_a_record_of_zeros_has_finite_tokens_and_gradients():
    encoder = small()
    encoder(torch.zeros(2, 12, 100)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_hidden_tokens_and_no_others_are_replaced():
    encoder = small(kernel=0)
    features, vector = torch.randn(2, 25, 16), torch.randn(32)
    masked = torch.rand(2, 25) < 0.4
    plain, hidden = encoder.embed(features), encoder.embed(features, masked, vector)
    assert torch.equal(hidden[~masked], plain[~masked])
    expected = encoder.position_norm(vector).expand_as(hidden[masked])
    torch.testing.assert_close(hidden[masked], expected)


def test_what_is_hidden_cannot_be_seen_and_the_rest_can():
    encoder = small()
    features, vector = torch.randn(1, 25, 16), torch.randn(32)
    masked = torch.arange(25)[None] % 3 == 0
    before = encoder.context(features, masked, vector)
    for moved in (masked, ~masked):
        changed = torch.where(moved[..., None], torch.randn(1, 25, 16), features)
        same = torch.equal(before, encoder.context(changed, masked, vector))
        assert same == bool(moved[0, 0])
    assert not torch.allclose(before[masked][0], before[masked][1])  # each knows its place


@pytest.mark.parametrize("kernel", [0, 8])
def test_order_is_known_from_the_positions_alone(kernel):
    encoder = small(kernel)
    features, order = torch.randn(2, 25, 16), torch.randperm(25)
    with torch.no_grad():
        moved = encoder.context(features[:, order]) - encoder.context(features)[:, order]
    if kernel:
        assert moved.abs().max() > 0.01
    else:
        assert moved.abs().max() < 1e-5


def test_dropout_acts_in_training_alone_and_not_between_the_linear_layers():
    encoder = small(dropout=0.3)
    assert torch.equal(encoder(signals()), encoder(signals()))
    encoder.train()
    assert not torch.allclose(encoder(signals()), encoder(signals()))
    for layer in encoder.layers:
        found = (layer.dropout.p, layer.dropout1.p, layer.dropout2.p, layer.self_attn.dropout)
        assert found == (0.0, 0.3, 0.3, 0.3)


@pytest.mark.parametrize("kernel", [8, 0])
def test_layer_groups_go_from_input_to_output_and_hold_each_parameter_once(kernel):
    encoder = small(kernel)
    groups = encoder.layer_groups()
    grouped = [id(p) for group in groups for p in group]
    assert sorted(grouped) == sorted(id(p) for p in encoder.parameters())
    assert len(groups) == 3 and groups[0][0] is encoder.convs[0].weight
    assert {id(p) for p in groups[2]} == {id(p) for p in encoder.layers[1].parameters()}


def test_features_stay_close_and_in_32_bits_under_autocast():
    encoder = small()
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoder.tokens(signals())
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, encoder.tokens(signals()), atol=0.15, rtol=0.1)


def test_wrong_shapes_are_named():
    for shape in ((2, 8, 100), (12, 100)):
        with pytest.raises(ValueError, match=r"signals has shape \(.*expected \(batch, 12, time\)"):
            small()(torch.zeros(shape))


@pytest.mark.parametrize("variant", ["A", "L"])
def test_3kg_gives_a_view_one_embedding_where_all_leads_are_read_at_once(variant):
    torch.manual_seed(0)
    method = ThreeKG(encoder="transformer-small", variant=variant, seconds=1.0)
    seen = {}
    method.gather = lambda rows: seen.setdefault(rows.dtype, rows)
    loss, parts = method.loss(Batch(signals(5), torch.arange(5), torch.tensor([0, 1, 1, 2, 3])))
    loss.backward()
    assert seen[torch.float32].shape == (10, 128) and parts == {}
    for name, parameter in method.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name
