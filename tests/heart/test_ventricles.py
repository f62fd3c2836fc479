"""The wall: sources that sum to zero, fronts that obey the solid angle, times that are a metric."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from ecgtutorial.heart import ventricles as module
from ecgtutorial.heart.ventricles import (
    NETWORKS,
    SEGMENTS,
    activation,
    nearest,
    sources,
    spread,
    ventricles,
)

INNER = module._CAVITY[0]  # mm, short half axis of the cavity
OUTER = INNER + module._LEFT_WALL


@pytest.fixture(scope="module")
def tissue():
    return ventricles()


@pytest.fixture(scope="module")
def left(tissue):
    """Sources of the left ventricle alone, float64 (node, 9)."""
    return sources((~tissue.right).astype(np.float32)[None])[0].astype(float)


def directions(n, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# --- the wall -----------------------------------------------------------------------------------


def test_one_row_a_node(tissue):
    n = len(tissue.position)
    assert 500 < n < 2000
    for name in ("layer", "right", "septal", "segment", "polar", "azimuth"):
        assert getattr(tissue, name).shape == (n,)
    assert tissue.faces.shape == tissue.middles.shape == (*tissue.neighbours.shape, 3)
    assert tissue.travel.shape == (len(NETWORKS), n, n)
    assert np.isfinite(tissue.travel).all(), "a node that no front can reach"


def test_made_once():
    assert ventricles() is ventricles()


def test_faces_are_seen_from_both_sides(tissue):
    areas = {}
    for i, row in enumerate(tissue.neighbours):
        for j, face, middle in zip(row, tissue.faces[i], tissue.middles[i], strict=True):
            if i != j:
                assert (i, j) not in areas, "two faces between the same cells"
                areas[i, j] = np.concatenate([face, middle])
            else:
                assert not face.any()
    for (i, j), (*face, a, b, c) in areas.items():
        assert np.allclose(areas[j, i], [*-np.array(face), a, b, c])


def test_every_segment_is_there(tissue):
    assert set(tissue.segment) == set(range(len(SEGMENTS)))
    own = [SEGMENTS.index(name) for name in SEGMENTS if name.startswith("RV")]
    assert np.array_equal(np.isin(tissue.segment, own), tissue.right)


@pytest.mark.parametrize("name", SEGMENTS[:17])
def test_segments_of_the_left_ventricle_hang_together(tissue, name):
    inside = np.flatnonzero(tissue.segment == SEGMENTS.index(name))
    rows = np.repeat(np.arange(len(tissue.position)), tissue.neighbours.shape[1])
    graph = csr_array(
        (np.ones(len(rows)), (rows, tissue.neighbours.ravel())), shape=[len(tissue.position)] * 2
    )
    assert connected_components(graph[inside][:, inside])[0] == 1


def test_segments_lie_where_their_names_say(tissue):
    def middle(*words):
        inside = [k for k, name in enumerate(SEGMENTS) if all(w in name.split() for w in words)]
        return tissue.position[np.isin(tissue.segment, inside)].mean(axis=0)

    assert middle("anterior")[1] > 15 > -15 > middle("inferior")[1]
    assert middle("mid", "anterolateral")[0] > 10 > -10 > middle("mid", "anteroseptal")[0]
    assert middle("apex")[2] > middle("apical")[2] > middle("mid")[2] > middle("basal")[2]
    assert middle("RV", "free", "wall")[0] < middle("mid", "inferoseptal")[0] - 10
    outflow = tissue.position[tissue.segment == SEGMENTS.index("RVOT")].mean(axis=0)
    assert outflow[2] < tissue.position[tissue.segment < 17, 2].min() + 20  # above the base
    septal = tissue.position[tissue.septal]
    assert (septal[:, 0] < 0).all() and not tissue.right[tissue.septal].any()


def test_nearest_finds_a_node_where_it_is(tissue):
    for right, layer in ((False, 0), (False, 0.5), (False, 1), (True, 0), (True, 1)):
        there = np.flatnonzero((tissue.right == right) & (tissue.layer == layer))[::7]
        found = nearest(tissue.polar[there], tissue.azimuth[there], right, layer)
        assert np.array_equal(found, there)


def test_nearest_goes_round_the_circle(tissue):
    assert nearest(60, 359) == nearest(60, -1) == nearest(60, 719)
    assert tissue.azimuth[nearest(60, 359)] == 0
    assert nearest(np.full((2, 3), 60.0), np.full((2, 3), 90.0)).shape == (2, 3)


# --- sources ------------------------------------------------------------------------------------


def test_equal_voltage_is_silent_whatever_the_mass(tissue):
    rng = np.random.default_rng(0)
    mass = rng.random((4, len(tissue.layer))).astype(np.float32)
    mass[1] = 1
    mass[2, ::3] = 0
    mass[3] *= 5
    weights = sources(mass)  # (record, node, 9)
    assert weights.dtype == np.float32 and weights.shape == (4, len(tissue.layer), 9)
    assert (np.abs(weights.sum(axis=1)) < 1e-5 * np.abs(weights).sum(axis=1)).all()


def test_no_mass_means_a_normal_wall(tissue):
    ones = np.ones((2, len(tissue.layer)), np.float32)
    assert np.allclose(sources(ones), sources(), rtol=1e-5, atol=0.1)


def test_a_current_needs_muscle_on_both_sides(tissue):
    ones = np.ones((1, len(tissue.layer)), np.float32)
    assert np.allclose(sources(2 * ones), 4 * sources(ones))  # powers of two round nothing
    dead = ones.copy()
    dead[:, tissue.segment == 3] = 0
    assert not sources(dead)[0, tissue.segment == 3].any()
    inside = (tissue.segment[tissue.neighbours] == 4).all(axis=1)  # of another segment: unchanged
    assert np.allclose(sources(dead)[0, inside], sources(ones)[0, inside])


def test_a_record_does_not_depend_on_its_batch(tissue):
    mass = np.random.default_rng(1).random((5, len(tissue.layer))).astype(np.float32)
    together = sources(mass)
    for k in range(5):
        assert np.array_equal(sources(mass[k : k + 1])[0], together[k])


def test_a_plane_front_points_where_it_goes(tissue, left):
    for way in directions(40):
        along = tissue.position @ way
        half = np.median(along[~tissue.right])
        dipole = ((along < half) & ~tissue.right) @ left[:, :3]  # depolarised behind, not before
        angle = np.degrees(np.arccos(dipole @ way / np.linalg.norm(dipole)))
        assert angle < 12


def test_dipole_of_a_front_is_its_area(tissue, left):
    """From apex to base, the front is a ring between the two ellipsoids."""
    rings = np.unique(tissue.polar[~tissue.right])
    for lower, upper in zip(rings, rings[1:], strict=False):
        dipole = ((tissue.polar < (lower + upper) / 2) & ~tissue.right) @ left[:, :3]
        wide = np.sin(np.radians((lower + upper) / 2)) ** 2
        ring = np.pi * (OUTER**2 - INNER**2) * wide  # mm²
        assert -dipole[2] == pytest.approx(ring, rel=0.15)
        assert np.abs(dipole[:2]).max() < 0.01 * ring


def test_a_cup_is_its_rim(tissue, left):
    """Solid angle: a front from inside to outside counts as the opening that it leaves."""
    dipole = ((tissue.layer == 0) & ~tissue.right) @ left[:, :3]
    between = INNER + module._LEFT_WALL / 4
    rims = [np.sin(np.radians(tissue.polar[~tissue.right].max())),
            np.sin(np.radians(tissue.polar.min()))]  # fmt: skip
    opening = np.pi * between**2 * (rims[0] ** 2 - rims[1] ** 2)
    assert dipole[2] == pytest.approx(opening, rel=0.05)
    assert np.abs(dipole[:2]).max() < 0.01 * opening


def test_a_closed_front_is_silent(tissue):
    """Around a cell within the wall the front is closed; under the endocardium it is open."""
    weights = sources()[0, :, :3]
    area = np.linalg.norm(tissue.faces, axis=2).sum(axis=1)
    inside = ~tissue.right & (tissue.layer == 0.5) & (tissue.polar > 25) & (tissue.polar < 95)
    share = np.linalg.norm(weights, axis=1) / area
    assert share[inside].max() < 0.1
    inner = np.flatnonzero(inside) - 1  # the layer below stands just before
    assert (tissue.layer[inner] == 0).all()
    outwards = tissue.position[inner + 1] - tissue.position[inner]
    cosine = (weights[inner] * outwards).sum(axis=1) / (
        np.linalg.norm(weights[inner], axis=1) * np.linalg.norm(outwards, axis=1)
    )
    assert cosine.min() > 0.7 and share[inner].min() > 0.2


def test_quadrupole_is_the_dipole_times_its_place(tissue):
    """Moving the origin by c changes the quadrupole by the dipole times c, of every state."""
    state = np.random.default_rng(2).random((6, len(tissue.layer)))
    shift = np.array([5.0, -3.0, 8.0])
    before = state @ sources()[0].astype(float)
    rows, columns = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)
    moved = np.zeros((len(tissue.layer), 3, 3))
    for k in range(tissue.faces.shape[1]):
        middle = tissue.middles[:, k] + shift
        moved += tissue.faces[:, k, :, None] * middle[:, None, :]
    moved = np.tensordot(state, moved, 1)
    moved = (moved + moved.swapaxes(1, 2))[:, rows, columns] / 2
    dipole = before[:, :3]
    added = dipole[:, :, None] * shift
    added = (added + added.swapaxes(1, 2))[:, rows, columns] / 2
    assert np.allclose(moved, before[:, 3:] + added, rtol=1e-3, atol=1)


# --- travel -------------------------------------------------------------------------------------


def test_travel_times_are_a_metric(tissue):
    a, b, c = np.random.default_rng(0).integers(0, len(tissue.layer), (3, 20_000))
    for travel in tissue.travel:
        assert np.array_equal(travel, travel.T)
        assert not travel.diagonal().any()
        assert travel[travel > 0].min() >= 0.09
        assert (travel[a, c] <= travel[a, b] + travel[b, c] + 1e-3).all()


def test_purkinje_is_never_slower_than_muscle(tissue):
    travel = dict(zip(NETWORKS, tissue.travel, strict=True))
    for name in NETWORKS:
        assert (travel[name] <= travel["none"] + 1e-3).all()
        assert (travel["both"] <= travel[name] + 1e-3).all()
    assert (travel["left"] <= travel["no anterior"] + 1e-3).mean() < 1  # they are not the same
    inner = nearest(np.array([60, 60]), np.array([90, 270]))
    assert travel["both"][*inner] < 0.5 * travel["none"][*inner]


def test_no_way_is_faster_than_its_speed(tissue):
    distance = np.linalg.norm(tissue.position[:, None] - tissue.position, axis=2)
    assert (tissue.travel[NETWORKS.index("none")] >= distance / module._ALONG - 1e-2).all()
    assert (tissue.travel[NETWORKS.index("both")] >= distance / module._PURKINJE - 1e-2).all()


def steps(tissue):
    """The pairs a front may step between and their lengths, written down once more."""
    sizes = [("left", module._left()), ("right", module._right())]
    grids, begin = [], 0
    for _, part in sizes:
        shape = part["polar"].shape
        grids.append(begin + np.arange(np.prod(shape)).reshape(shape))
        begin += np.prod(shape)
    pairs = [*module._grid_edges(grids), module._diagonals(grids)]
    return np.concatenate([*pairs, module._seam(grids, tissue.position)], axis=1)


def slow(tissue, pairs, fast, root, start):
    """Bellman and Ford: shorten every way until none gets shorter."""
    i, j = pairs
    apart = tissue.position[j] - tissue.position[i]
    length = np.sqrt((apart**2).sum(axis=1))
    wall = np.where(tissue.right[i], module._RIGHT_WALL, module._LEFT_WALL)
    through = np.minimum(abs(tissue.layer[i] - tissue.layer[j]) * wall, length)
    through[tissue.right[i] != tissue.right[j]] = 0
    along = np.sqrt(length**2 - through**2)
    time = np.sqrt((along / module._ALONG) ** 2 + (through / module._THROUGH) ** 2)
    both = fast[i] & fast[j] & (tissue.layer[i] == tissue.layer[j])
    time = np.maximum(np.where(both, length / module._PURKINJE, time), 0.1)
    fires = np.full(len(tissue.layer), np.inf)
    fires[root] = start
    while True:
        before = fires.copy()
        np.minimum.at(fires, j, fires[i] + time)
        np.minimum.at(fires, i, fires[j] + time)
        if np.array_equal(before, fires):
            return fires


def test_activation_equals_a_slow_loop(tissue):
    pairs = steps(tissue)
    nothing = np.zeros(len(tissue.layer), bool)
    everything = (tissue.layer == 0) & (tissue.polar < np.where(tissue.right, 80, 86))
    everything |= tissue.septal & (tissue.layer == 1) & (tissue.polar < 80)
    roots = nearest(np.array([64, 59, 30]), np.array([128, 274, 226]))
    start = np.array([0.5, 4.0, 9.0])
    one = np.array([[NETWORKS.index("none")], [NETWORKS.index("both")]])
    fires = activation(np.tile(roots, (2, 1)), np.tile(start, (2, 1)), one)
    for found, fast in zip(fires, (nothing, everything), strict=True):
        each = [slow(tissue, pairs, fast, r, s) for r, s in zip(roots, start, strict=True)]
        assert np.allclose(found, np.min(each, axis=0), atol=1e-3)


def test_the_first_front_wins(tissue):
    roots, start = np.array([[10, 400], [10, 400]]), np.array([[0.0, 5.0], [0.0, np.inf]])
    network = np.array([[0, 5]])  # each front by a way of its own
    fires = activation(roots, start, np.repeat(network, 2, axis=0))
    assert np.allclose(fires[1], tissue.travel[0, 10], atol=1e-3)
    assert np.allclose(fires[0], np.minimum(tissue.travel[0, 10], 5 + tissue.travel[5, 400]))
    assert fires.dtype == np.float32
    late = activation(roots, start + 7, np.array([[0], [0]]))
    assert np.allclose(late, activation(roots, start, np.array([[0], [0]])) + 7, atol=1e-3)


def test_a_record_without_a_root_is_refused():
    start = np.array([[0.0, np.inf], [np.inf, np.inf]])
    with pytest.raises(ValueError, match="root"):
        activation(np.array([[0, 1], [2, 3]]), start, np.zeros((2, 1), int))


# --- fronts through scar ------------------------------------------------------------------------


def test_without_fibres_and_scars_a_front_spreads_as_through_muscle():
    tissue, nodes = ventricles(), [3, 500, 900]
    muscle = tissue.travel[NETWORKS.index("none")][nodes]
    one = np.ones((3, len(tissue.layer)))
    fast = spread(nodes, one, 1.5)
    assert (fast <= muscle + 1e-3).all() and (fast >= muscle / 1.5 - 1e-3).all()
    np.testing.assert_allclose(spread(nodes, 2 * one, 1.5), 2 * fast, rtol=1e-5)
    np.testing.assert_allclose(spread(nodes, one), muscle, atol=1e-3)


def test_a_scar_delays_what_lies_behind_it_and_nothing_before():
    tissue = ventricles()
    start = np.flatnonzero((tissue.layer == 0) & (tissue.polar < 10))[0]
    block = (tissue.polar > 45) & (tissue.polar < 60)  # a ring around the whole left ventricle
    slow = np.where(block & ~tissue.right, 4.0, 1.0)[None]
    free, late = (spread([start], s)[0] for s in (np.ones_like(slow), slow))
    before = tissue.polar < 30
    assert np.abs(late - free)[before].max() < 1e-3
    behind = (tissue.polar > 80) & (np.abs(tissue.azimuth - 18) < 40) & ~tissue.right
    assert (late - free)[behind].min() > 15


def test_a_front_takes_as_long_there_as_back():
    slow = 1 + np.random.default_rng(0).random((1, len(ventricles().layer)))
    there, back = (spread([a], slow)[0][b] for a, b in ((10, 800), (800, 10)))
    assert there == pytest.approx(back, rel=1e-6)
