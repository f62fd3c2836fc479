import numpy as np
import pytest
import torch

from ecgtutorial import augment
from ecgtutorial.leads import EXPANSION, dower12


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def signals():
    eight = torch.randn(5, 8, 100, generator=generator())
    return torch.as_tensor(EXPANSION, dtype=torch.float32) @ eight  # (5, 12, 100)


@pytest.fixture
def dipolar():
    """Signals that a heart vector explains in full."""
    vector = torch.randn(5, 3, 100, generator=generator())
    return torch.as_tensor(dower12(), dtype=torch.float32) @ vector


def test_rotations_are_rotations(signals):
    rotation = augment.random_rotation(signals, 45, generator())
    np.testing.assert_allclose(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3), atol=1e-6)
    np.testing.assert_allclose(torch.linalg.det(rotation), np.ones(5), atol=1e-6)


def test_a_quarter_turn_about_z_takes_left_to_down():
    turn = augment.axis_rotations(torch.full((1, 3), torch.pi / 2))[0, 2]
    np.testing.assert_allclose(turn @ torch.tensor([1.0, 0, 0]), [0, 1, 0], atol=1e-6)


def test_the_order_of_axes_varies(signals):
    many = signals[:1].expand(600, -1, -1)
    rotation = augment.random_rotation(many, 45, generator())
    # With a fixed order z-y-x one entry is a bare sine of one angle, uniformly far from the others:
    # every entry off the diagonal must have the same spread instead.
    spread = rotation.std(dim=0)[~torch.eye(3, dtype=bool)]
    assert spread.max() / spread.min() < 1.15


def test_scaling_is_log_symmetric_and_bounded(signals):
    many = signals[:1].expand(4000, -1, -1)
    scale = torch.diagonal(augment.random_scaling(many, 1.5, generator()), dim1=1, dim2=2)
    assert scale.min() >= 1 / 1.5 - 1e-6 and scale.max() <= 1.5
    assert abs(scale.log().mean()) < 0.01
    with pytest.raises(ValueError, match="factor is 0.5"):
        augment.random_scaling(many, 0.5)


def test_identity_keeps_dipolar_signals_and_loses_the_rest(signals, dipolar):
    identity = torch.eye(3).expand(5, 3, 3)
    back = augment.transform_heart_vector(dipolar, identity)
    np.testing.assert_allclose(back, dipolar, atol=0.02)  # the printed inverse is truncated
    lost = augment.transform_heart_vector(signals, identity) - signals
    assert lost.norm() > 0.3 * signals.norm()
    kept = augment.transform_heart_vector(signals, identity, residual=True)
    np.testing.assert_allclose(kept, signals, atol=1e-6)


def test_views_of_the_heart_vector_keep_limb_lead_algebra(signals):
    matrix = augment.random_scaling(signals, 1.5) @ augment.random_rotation(signals, 45)
    for residual in (False, True):
        view = augment.transform_heart_vector(signals, matrix, residual)
        np.testing.assert_allclose(view[:, 2], view[:, 1] - view[:, 0], atol=1e-5)
        np.testing.assert_allclose(view[:, 3:6].sum(dim=1), np.zeros((5, 100)), atol=1e-5)


def test_time_mask_zeroes_exactly_the_floor_with_wrap_around():
    ones = torch.ones(300, 12, 101)
    masked = augment.time_mask(ones, 0.5, generator())
    assert ((masked == 0).sum(dim=2) == 50).all()
    edges = (masked != torch.roll(masked, 1, dims=2)).sum(dim=2)
    assert (edges == 2).all()  # one span on a circle
    assert (masked[:, :, 0] + masked[:, :, -1] == 0).any()  # some span runs over the end
    starts = masked[0].argmin(dim=1)
    assert len(set(starts.tolist())) > 4  # each lead has its own
    assert (augment.time_mask(ones, 0.0) == 1).all() and (augment.time_mask(ones, 1.0) == 0).all()


def test_resized_crop_of_a_ramp_is_a_slower_ramp():
    ramp = torch.linspace(0, 1, 250).expand(50, 12, 250)
    view = augment.random_resized_crop(ramp, 0.5, 1.0, generator())
    slope = view.diff(dim=2)
    np.testing.assert_allclose(slope.std(dim=2), np.zeros((50, 12)), atol=1e-5)
    ratio = slope.mean(dim=2) * 249
    assert 0.5 <= ratio.min() < 0.6 and 0.9 < ratio.max() <= 1.0 + 1e-5
    np.testing.assert_allclose(augment.random_resized_crop(ramp, 1.0, 1.0), ramp, atol=1e-5)


def test_time_out_hits_all_leads_together():
    view = augment.time_out(torch.ones(200, 12, 250), generator=generator())
    zeros = (view == 0).sum(dim=2)
    assert (zeros == zeros[:, :1]).all()
    assert zeros.min() >= 49 and zeros.max() <= 100


@pytest.mark.parametrize(
    "view",
    [
        lambda x, g: augment.time_mask(x, 0.5, g),
        lambda x, g: augment.random_resized_crop(x, generator=g),
        lambda x, g: augment.time_out(x, generator=g),
        lambda x, g: augment.random_rotation(x, 45, g),
        lambda x, g: augment.random_scaling(x, 2, g),
    ],
)
def test_views_are_repeatable_by_generator_and_differ_by_record(signals, view):
    before = signals.clone()
    first, again = view(signals, generator(3)), view(signals, generator(3))
    assert torch.equal(first, again)
    assert torch.equal(signals, before)  # the input is left alone
    same = view(signals[:1].expand(5, -1, -1), generator(3))
    assert not torch.equal(same[0], same[1])


def test_shape_errors(signals):
    with pytest.raises(ValueError, match=r"expected \(batch, 12, time\)"):
        augment.transform_heart_vector(signals[:, :8], torch.eye(3).expand(5, 3, 3))
    with pytest.raises(ValueError, match="fraction is 1.5"):
        augment.time_mask(signals, 1.5)
    with pytest.raises(ValueError, match="expected 0 < low"):
        augment.random_resized_crop(signals, 0.0)


def test_crop_reads_tensor_and_memory_map_alike():
    data = np.random.default_rng(0).integers(-2000, 2000, (6, 12, 50), dtype=np.int16)
    rows, starts = torch.tensor([4, 0, 4]), torch.tensor([3, 30, 10])
    from_tensor = augment.crop(torch.from_numpy(data), rows, starts, 20)
    from_array = augment.crop(data, rows.numpy(), starts.numpy(), 20)
    assert torch.equal(from_tensor, from_array)
    np.testing.assert_allclose(from_tensor[1], data[0, :, 30:50] / 1000, rtol=1e-6)
