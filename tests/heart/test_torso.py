"""The torso: Dower's values, the quadrupole by its definition, rotations, laws of limb leads."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ecgtutorial.heart.torso import DISTANCE, POPULATION, lead_field, rotation, twelve
from ecgtutorial.leads import DOWER, EXPANSION, INDEPENDENT, LEADS

ROWS, COLUMNS = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)  # xx, yy, zz, xy, xz, yz


def plain(n=1, turn=None, centre=None, chest=None, day=None):
    """A lead field with nothing but what is given."""
    turn = np.tile(np.eye(3), (n, 1, 1)) if turn is None else turn
    centre = np.zeros((n, 3)) if centre is None else centre
    chest = np.zeros((n, 8, 5)) if chest is None else chest
    day = np.zeros((n, 8, 3)) if day is None else day
    return lead_field(turn, centre, chest, day)


def moments(dipoles, places):
    """Dipole and quadrupole of point dipoles (source, 3) at places (source, 3): (9,)."""
    tensor = dipoles.T @ places  # (3, 3)
    return np.concatenate([dipoles.sum(axis=0), ((tensor + tensor.T) / 2)[ROWS, COLUMNS]])


def potential(dipoles, places):
    """What the eight electrodes see of point dipoles, without any expansion (8,)."""
    rows = POPULATION[:, None] * DOWER
    strength = np.linalg.norm(rows, axis=1)
    electrode = rows / strength[:, None] * DISTANCE[:, None]  # (8, 3), mm
    apart = electrode[:, None] - places  # (8, source, 3)
    each = (apart * dipoles).sum(axis=2) / np.linalg.norm(apart, axis=2) ** 3
    return strength * DISTANCE**2 * each.sum(axis=1)


@pytest.fixture
def extended():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 3)), 25 * rng.uniform(-1, 1, (40, 3))


# --- lead field -----------------------------------------------------------------------------------


def test_constants_belong_to_eight_leads():
    assert DISTANCE.shape == POPULATION.shape == (len(INDEPENDENT),)
    assert (DISTANCE > 100).all() and (POPULATION > 0).all()
    assert DISTANCE[2:].max() < DISTANCE[:2].min()  # limbs are far away


def test_a_plain_field_is_dower(extended):
    field = plain(3)
    assert field.shape == (3, 8, 9)
    assert np.allclose(field[..., :3], POPULATION[:, None] * DOWER)


def test_the_quadrupole_has_no_trace(extended):
    """Three equal dipoles pointing outwards make no field: a sphere is silent."""
    rng = np.random.default_rng(1)
    field = plain(2, chest=rng.standard_normal((2, 8, 5)), day=rng.standard_normal((2, 8, 3)))
    assert np.abs(field[..., 3:6].sum(axis=2)).max() < 1e-12


def test_the_field_is_the_second_order_of_a_real_source(extended):
    """Halving the source's extent leaves a quarter of what dipole and quadrupole miss."""
    dipoles, places = extended
    errors, sizes = [], (0.2, 0.1, 0.05)
    for size in sizes:
        seen = plain()[0] @ moments(dipoles, size * places)
        errors.append(np.abs(potential(dipoles, size * places) - seen))
    ratios = np.array(errors)[:-1] / np.array(errors)[1:]
    assert np.median(ratios) == pytest.approx(4, rel=0.1)
    only_dipole = np.abs(plain()[0, :, :3] @ dipoles.sum(axis=0) - potential(dipoles, 0.2 * places))
    assert errors[0].sum() < 0.2 * only_dipole.sum()
    assert errors[-1].max() < 1e-3 * np.abs(potential(dipoles, places)).max()


def test_centre_and_turn_are_where_the_heart_lies(extended):
    dipoles, places = extended
    turn = Rotation.from_rotvec([0.4, -0.9, 0.3]).as_matrix()
    centre = np.array([-6.0, 12.0, 20.0])
    here = plain(1, turn[None], centre[None])[0] @ moments(dipoles, places)
    in_body = moments(dipoles @ turn.T, (places - centre) @ turn.T)
    assert np.allclose(here, plain()[0] @ in_body)


def test_everybody_has_a_chest_and_the_mean_is_dower():
    rng = np.random.default_rng(3)
    n = 4000
    field = plain(n, chest=rng.standard_normal((n, 8, 5)), day=rng.standard_normal((n, 8, 3)))
    size = POPULATION * np.linalg.norm(DOWER, axis=1)
    assert (np.abs(field[..., :3].mean(0) - POPULATION[:, None] * DOWER).max(1) < 0.02 * size).all()
    spread = field[..., :3].std(axis=0).max(axis=1) / size
    assert (spread > 0.05).all() and (spread < 0.5).all()


def test_electrodes_move_on_the_chest_more_than_on_the_limbs():
    rng = np.random.default_rng(4)
    moved = plain(500, day=rng.standard_normal((500, 8, 3)))[..., :3]
    size = POPULATION * np.linalg.norm(DOWER, axis=1)
    spread = moved.std(axis=0).mean(axis=1) / size
    assert spread[2:].min() > 2 * spread[:2].max() > 0


def test_a_record_does_not_depend_on_its_batch():
    rng = np.random.default_rng(5)
    everything = (rotation(rng.standard_normal((6, 3))), rng.standard_normal((6, 3)),
                  rng.standard_normal((6, 8, 5)), rng.standard_normal((6, 8, 3)))  # fmt: skip
    together = lead_field(*everything)
    for k in range(6):
        assert np.array_equal(lead_field(*(x[k : k + 1] for x in everything))[0], together[k])


# --- rotations ------------------------------------------------------------------------------------


def test_rotations_keep_lengths_and_hands():
    vectors = 2 * np.random.default_rng(0).standard_normal((50, 3))
    turns = rotation(vectors)
    assert np.allclose(turns @ turns.swapaxes(1, 2), np.eye(3))
    assert np.allclose(np.linalg.det(turns), 1)
    assert np.allclose(turns @ rotation(-vectors), np.eye(3))
    assert np.allclose(turns, Rotation.from_rotvec(vectors).as_matrix())
    assert np.allclose((turns @ vectors[..., None])[..., 0], vectors)  # the axis stays


def test_rotations_of_any_shape():
    assert np.allclose(rotation([0, 0, np.pi / 2]) @ [1, 0, 0], [0, 1, 0])  # left goes down
    assert np.allclose(rotation(np.zeros((2, 4, 3))), np.eye(3))
    assert rotation(np.ones((2, 4, 3))).shape == (2, 4, 3, 3)
    assert np.isfinite(rotation([1e-14, 0, 0])).all()
    assert np.allclose(rotation([2 * np.pi, 0, 0]), np.eye(3))


# --- twelve leads ---------------------------------------------------------------------------------


@pytest.fixture
def eight():
    return np.random.default_rng(0).normal(0, 3, (4, 8, 300)).astype(np.float32)


def test_laws_of_the_limb_leads(eight):
    signals = twelve(eight)
    assert signals.shape == (4, 12, 300) and signals.dtype == np.int16
    whole = signals.astype(int)
    one, two = whole[:, 0], whole[:, 1]
    assert np.array_equal(whole[:, 2], two - one)  # Einthoven, to the microvolt
    exact = EXPANSION @ whole[:, [LEADS.index(name) for name in INDEPENDENT]]
    assert np.abs(whole - exact).max() <= 0.5  # Goldberger, within rounding
    assert np.abs(whole[:, 3:6].sum(axis=1)).max() <= 1


def test_measured_leads_are_rounded_and_nothing_else(eight):
    signals = twelve(eight)[:, [LEADS.index(name) for name in INDEPENDENT]]
    assert np.abs(signals - 1000.0 * eight).max() <= 0.51
    assert np.array_equal(twelve(np.float32([[[0.0014, -0.0016]] * 8]))[0, 0], [1, -2])


def test_devices_clip_and_the_laws_hold_all_the_same():
    far = np.array([[-1.0], [1.0]], np.float32)
    eight = np.concatenate([1000 * far, -1000 * far] + [20 * far] * 6, axis=1).T[None]  # (1, 8, 2)
    signals = twelve(eight).astype(int)
    top = signals[0, 0].max()
    assert np.array_equal(signals[0, :2], [[-top, top], [top, -top]])
    assert np.array_equal(signals[0, 2], signals[0, 1] - signals[0, 0])  # no int16 overflow
    assert np.abs(signals - EXPANSION @ signals[:, [0, 1, 6, 7, 8, 9, 10, 11]]).max() <= 0.5
