"""The ventricles: a wall of muscle that fires and recovers, and the electric source this makes.

    tissue = ventricles()                             # nodes, currents, travel times: made once
    fires = activation(roots, start, "both")          # when every node fires (ms)
    weights = sources(mass)                           # what every node adds to the source

The left ventricle is a thick half ellipsoid (three layers of nodes), the right one a thin sheet
(two layers) attached to it, its outflow tract on top: about a thousand nodes. A front starts at the
roots (where the branches of the bundle end, or at an ectopic focus), runs fast along the Purkinje
network under the endocardium and slowly through muscle. Each node has an action potential V. The
current between neighbours is proportional to the difference of their V, so the source is

    dipole(t) = sum over neighbours i, j of (V_i - V_j) A_ij

with A_ij the area vector of the face between two cells; the quadrupole is the same sum, each term
times its position. Where every node has the same V there is no source: QRS is the difference that
spreads, ST-T the way back.

Heart coordinates in mm, origin in the middle of the left ventricle: axis 0 points from the septum
to the lateral wall, axis 1 from the inferior to the anterior wall, axis 2 from base to apex.

Sizes are an adult's. Early sites: Durrer et al. 1970. Source: the equivalent double layer, van
Oosterom & Oostendorp 2004. Segments: Cerqueira et al. 2002. Grid and speeds are our choice.

Explained in the chapter *The heart vector*.
"""

import functools
from collections import namedtuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

# The 17 segments in their standard order, then what that scheme leaves out.
SEGMENTS = (
    "basal anterior", "basal anteroseptal", "basal inferoseptal", "basal inferior",
    "basal inferolateral", "basal anterolateral", "mid anterior", "mid anteroseptal",
    "mid inferoseptal", "mid inferior", "mid inferolateral", "mid anterolateral",
    "apical anterior", "apical septal", "apical inferior", "apical lateral", "apex",
    "LVOT", "RV septal insertion", "RV free wall", "RV apex", "RVOT",
)  # fmt: skip

# States of the Purkinje network: which part of it conducts.
NETWORKS = ("both", "left", "right", "no anterior", "no posterior", "none")

_ALONG, _THROUGH, _PURKINJE = 0.70, 0.38, 2.2  # speeds in mm/ms
_CAVITY, _LEFT_WALL, _RIGHT_WALL = (22.0, 60.0), 10.0, 4.0  # mm
_RIGHT_BULGE, _OUTFLOW = 30.0, 30.0  # mm: depth of the right cavity, height of its outflow tract
_MITRAL = 102.0  # degrees from the apex: where the wall ends

Tissue = namedtuple(
    "Tissue",
    "position layer right septal segment polar azimuth neighbours faces middles pairs travel",
)
Tissue.__doc__ = """The wall as arrays, one row a node.

position: mm (node, 3). layer: 0 endocardium ... 1 epicardium (node,). right: of the right
ventricle's own wall (node,). septal: between the ventricles (node,). segment: index in `SEGMENTS`
(node,). polar: degrees from the apex (node,). azimuth: degrees, 0 lateral, 90 anterior, 180 septal,
270 inferior (node,). neighbours: (node, most); a missing one is the node itself, with face 0.
faces: area vectors, mm² (node, most, 3). middles: mm (node, most, 3). pairs: nodes between which a
front may step (2, pair). travel: ms from node to node, for every state in `NETWORKS` (state, node,
node).
"""


@functools.cache
def ventricles():
    """The wall as a `Tissue`: made by the first call, in about a second, and kept."""
    left, right = _left(), _right()
    grids = [np.arange(left["polar"].size).reshape(left["polar"].shape)]
    grids.append(np.arange(right["polar"].size).reshape(right["polar"].shape) + left["polar"].size)
    nodes = {
        name: np.concatenate([p[name].reshape(-1, *p[name].shape[3:]) for p in (left, right)])
        for name in left
    }
    nodes["septal"] = ~nodes["right"] & (np.abs(nodes["azimuth"] - 180) < 66)
    nodes["segment"] = _segments(nodes)
    edges = _grid_edges(grids)
    seam = _seam(grids, nodes["position"])
    neighbours, faces, middles = _currents(grids, edges, seam, nodes)
    fast = (nodes["layer"] == 0) & (nodes["polar"] < np.where(nodes["right"], 80, 86))
    right_bundle = nodes["right"] | (nodes["septal"] & (nodes["layer"] == 1))
    fast |= right_bundle & ~nodes["right"] & (nodes["polar"] < 80)
    fascicle = np.where(nodes["azimuth"] > 180, "posterior", "anterior")
    networks = {
        "both": fast, "left": fast & ~right_bundle, "right": fast & right_bundle,
        "no anterior": fast & (right_bundle | (fascicle != "anterior")),
        "no posterior": fast & (right_bundle | (fascicle != "posterior")), "none": fast & False,
    }  # fmt: skip
    pairs = np.concatenate([*edges, _diagonals(grids), seam], axis=1)
    travel = np.stack([_travel(pairs, nodes, networks[state]) for state in NETWORKS])
    return Tissue(
        neighbours=neighbours, faces=faces, middles=middles, pairs=pairs, travel=travel, **nodes
    )  # fmt: skip


def _left():
    polar, azimuth, layer = np.meshgrid(
        np.linspace(9, _MITRAL, 12), np.arange(20) * 18.0, [0, 0.5, 1], indexing="ij"
    )
    short, long = _CAVITY[0] + _LEFT_WALL * layer, _CAVITY[1] + _LEFT_WALL * layer
    theta, phi = np.radians(polar), np.radians(azimuth)
    position = np.stack(
        [short * np.sin(theta) * np.cos(phi), short * np.sin(theta) * np.sin(phi),
         long * np.cos(theta)], axis=-1,
    )  # fmt: skip
    return {"position": position, "layer": layer, "right": np.full(layer.shape, False),
            "polar": polar, "azimuth": azimuth}  # fmt: skip


def _right():
    """A sheet from the anterior to the inferior edge of the septum, bulging away from it."""
    polar, across, layer = np.meshgrid(
        np.linspace(22, _MITRAL, 10), np.linspace(-0.93, 0.93, 13), [0, 1], indexing="ij"
    )
    azimuth = 180 + 68 * across
    theta, phi = np.radians(polar), np.radians(azimuth)
    short, long = _CAVITY[0] + _LEFT_WALL, _CAVITY[1] + _LEFT_WALL
    bulge = _RIGHT_BULGE * np.sin(theta) * (1 - across**2) + _RIGHT_WALL * layer
    # The outflow tract: the highest rings of the anterior half rise and lean over the left heart.
    tract = np.clip((polar - 76) / (_MITRAL - 76), 0, 1) * np.clip(0.35 - across, 0, 0.7) / 0.7
    position = np.stack(
        [short * np.sin(theta) * np.cos(phi) - bulge * (1 - 0.5 * tract) + 14 * tract,
         short * np.sin(theta) * np.sin(phi) - _RIGHT_WALL * layer * across + 10 * tract,
         long * np.cos(theta) - _OUTFLOW * tract], axis=-1,
    )  # fmt: skip
    return {"position": position, "layer": layer.astype(float),
            "right": np.full(layer.shape, True), "polar": polar, "azimuth": azimuth}  # fmt: skip


def _segments(nodes):
    polar, azimuth, right = nodes["polar"], nodes["azimuth"], nodes["right"]
    # Basal and middle walls: six of 60 degrees from the anterior one; apical: four of 90.
    sixth = ((azimuth - 60) % 360 // 60).astype(int)  # 0 anterior, 1 anteroseptal, ...
    fourth = ((azimuth - 45) % 360 // 90).astype(int)
    segment = np.select(
        [polar < 15, polar < 45, polar < 72], [16, 12 + fourth, 6 + sixth], sixth
    )
    outflow = (polar > 96) & (azimuth > 100) & (azimuth < 190)
    segment[~right & outflow] = SEGMENTS.index("LVOT")
    across = (azimuth - 180) / 68
    own = np.select(
        [(polar > 82) & (across < -0.05), polar < 45, np.abs(across) > 0.7],
        [SEGMENTS.index("RVOT"), SEGMENTS.index("RV apex"), SEGMENTS.index("RV septal insertion")],
        SEGMENTS.index("RV free wall"),
    )
    return np.where(right, own, segment)


# --- neighbours -----------------------------------------------------------------------------------


def _pairs(grid, ring, sector, layer, around):
    """Pairs of nodes that are (ring, sector, layer) steps apart, (2, pair)."""
    to = np.roll(grid, -sector, axis=1) if around else grid[:, sector:] if sector >= 0 else grid
    start = grid if around or sector < 0 else grid[:, : grid.shape[1] - sector]
    if sector < 0 and not around:
        start, to = grid[:, -sector:], grid[:, :sector]
    if ring < 0:
        start, to, ring = start[-ring:], to[:ring], 0
    start, to = start[: start.shape[0] - ring], to[ring:]
    start, to = start[:, :, : start.shape[2] - layer], to[:, :, layer:]
    return np.stack([start.ravel(), to.ravel()])


def _grid_edges(grids):
    """Neighbours along the three axes of both grids: a list of three arrays (2, edge)."""
    steps = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    return [
        np.concatenate([_pairs(g, *s, around=k == 0) for k, g in enumerate(grids)], axis=1)
        for s in steps
    ]


def _diagonals(grids):
    """Oblique neighbours: without them a front would travel like a rook on a chess board."""
    steps = ((1, 1, 0), (1, -1, 0), (1, 0, 1), (-1, 0, 1), (0, 1, 1), (0, -1, 1),
             (2, 1, 0), (2, -1, 0), (1, 2, 0), (1, -2, 0))  # fmt: skip
    return np.concatenate(
        [_pairs(g, *s, around=k == 0) for k, g in enumerate(grids) for s in steps], axis=1
    )


def _seam(grids, position):
    """Where the right wall grows out of the left one: its edges and the nearest left nodes."""
    left, right = grids
    edge = np.unique(np.concatenate([right[:, 0], right[:, -1], right[0]]))
    outer = left[:, :, -1].ravel()
    distance = np.linalg.norm(position[edge, None] - position[outer], axis=-1)
    return np.stack([outer[distance.argmin(1)], edge])


def _currents(grids, edges, seam, nodes):
    """For every node its neighbours, the faces between them (mm²) and their middles (mm)."""
    position = nodes["position"]
    edge = np.zeros((3, len(position), 3))  # the edges of every cell as vectors, mm
    for axis, (i, j) in enumerate(edges):
        half = (position[j] - position[i]) / 2
        np.add.at(edge[axis], i, half)
        np.add.at(edge[axis], j, half)
    lists = [[] for _ in position]
    for axis, (i, j) in enumerate([*edges, seam]):
        along = position[j] - position[i]
        if axis < 3:  # an area is the vector product of the cell's two other edges
            area = np.cross(edge[(axis + 1) % 3], edge[(axis + 2) % 3])
            face = (area[i] + area[j]) / 2
            face *= np.sign((face * along).sum(axis=1, keepdims=True))
        else:  # across the seam: half the right wall's thickness for each of its layers, times 9 mm
            face = along / np.linalg.norm(along, axis=1, keepdims=True) * _RIGHT_WALL / 2 * 9
        for a, b, f in zip(i, j, face):
            lists[a].append((b, f))
            lists[b].append((a, -f))
    most = max(map(len, lists))
    neighbours = np.tile(np.arange(len(position))[:, None], most)
    faces = np.zeros((len(position), most, 3))
    for a, found in enumerate(lists):
        for k, (b, f) in enumerate(found):
            neighbours[a, k], faces[a, k] = b, f
    return neighbours, faces, (position[:, None] + position[neighbours]) / 2


def _travel(pairs, nodes, fast):
    """Time of the fastest way from every node to every other, ms float32 (node, node)."""
    i, j = pairs
    length = np.linalg.norm(nodes["position"][j] - nodes["position"][i], axis=1)
    wall = np.where(nodes["right"][i], _RIGHT_WALL, _LEFT_WALL)
    depth = np.minimum(np.abs(nodes["layer"][i] - nodes["layer"][j]) * wall, length)
    depth[nodes["right"][i] != nodes["right"][j]] = 0
    time = np.hypot(np.sqrt(length**2 - depth**2) / _ALONG, depth / _THROUGH)
    purkinje = fast[i] & fast[j] & (nodes["layer"][i] == nodes["layer"][j])
    time = np.where(purkinje, length / _PURKINJE, time)
    n = len(nodes["position"])
    i, j = i.astype(np.int32), j.astype(np.int32)  # older scipy's dijkstra takes no other indices
    graph = csr_array((np.maximum(time, 0.1), (i, j)), shape=(n, n))
    return dijkstra(graph, directed=False).astype(np.float32)


# --- firing ---------------------------------------------------------------------------------------


def activation(roots, start, network):
    """When every node fires, ms (record, node): the first front to arrive.

    roots: nodes where a front starts (record, root). start: when, ms (record, root); inf: never.
    network: index in `NETWORKS` of the way it travels, (record, root) or (record, 1).
    Raises ValueError where a record has no root at all.
    """
    if not np.isfinite(start).any(axis=1).all():
        raise ValueError("every record needs a root that fires: found one whose starts are all inf")
    travel = ventricles().travel
    fires = np.full((len(roots), travel.shape[1]), np.inf, np.float32)
    network = np.broadcast_to(network, roots.shape)
    for k in range(roots.shape[1]):
        way = travel[network[:, k], roots[:, k]]  # (record, node)
        np.minimum(fires, way + start[:, k, None].astype(np.float32), out=fires)
    return fires


def spread(nodes, slow, fibres=1.0):
    """When every node fires after a focus, through muscle alone, ms float32 (record, node).

    nodes: where the front starts (record,). slow: how much longer it takes there (record, node).
    fibres: speed under the endocardium, against muscle.
    """
    ways, start = _ways(fibres)
    fires = np.empty(slow.shape, np.float32)
    for i, node in enumerate(nodes):  # every scar makes a map of its own
        time = ways.data * (slow[i, start] + slow[i, ways.indices]) / 2
        fires[i] = dijkstra(csr_array((time, ways.indices, ways.indptr)), indices=node)
    return fires


@functools.cache
def _ways(fibres):
    """Steps through muscle that no detour replaces, ms: sparse (node, node), and their starts."""
    tissue = ventricles()
    muscle = tissue.travel[NETWORKS.index("none")].astype(float)
    i, j = tissue.pairs
    detour, pair = muscle[i] + muscle[j], np.arange(len(i))  # by way of any node (pair, node)
    detour[pair, i] = detour[pair, j] = np.inf
    i, j = tissue.pairs[:, muscle[i, j] < detour.min(axis=1) - 1e-3]
    inner = (tissue.layer[i] == 0) & (tissue.layer[j] == 0)
    time = np.tile(muscle[i, j] / np.where(inner, fibres, 1), 2)
    there_and_back = np.append(i, j).astype(np.int32), np.append(j, i).astype(np.int32)
    ways = csr_array((time, there_and_back), shape=muscle.shape)
    return ways, np.repeat(np.arange(len(muscle)), np.diff(ways.indptr))


def sources(mass=None):
    """What a node at full voltage adds to dipole and quadrupole, (record or 1, node, 9).

    mass: share of muscle that is alive and thick, 1 for the normal wall (record, node) or None.
    The nine: dipole along the three heart axes (mm²); quadrupole xx, yy, zz, xy, xz, yz (mm³).
    The sum over nodes is zero whatever the mass: equal voltages make no source.
    """
    tissue, parts = ventricles(), _parts()
    if mass is None:
        return parts.sum(axis=1)[None]
    total = np.zeros((*mass.shape, 9), np.float32)
    for k in range(parts.shape[1]):
        both = mass * mass[:, tissue.neighbours[:, k]]  # a current needs muscle on both sides
        total += both[..., None] * parts[:, k]
    return total


@functools.cache
def _parts():
    """Dipole and quadrupole of every face, float32 (node, most, 9)."""
    tissue = ventricles()
    moments = tissue.faces[..., :, None] * tissue.middles[..., None, :]  # (node, most, 3, 3)
    moments = (moments + moments.swapaxes(-1, -2)) / 2
    rows, columns = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)
    parts = np.concatenate([tissue.faces, moments[..., rows, columns]], axis=-1)
    return parts.astype(np.float32)


def nearest(polar, azimuth, right=False, layer=0):
    """The node nearest to a place of one layer: whole numbers like the arguments.

    polar, azimuth: degrees, as in `Tissue` (any shape). right: in the right ventricle's own wall.
    """
    tissue = ventricles()
    candidates = np.flatnonzero((tissue.right == right) & (tissue.layer == layer))
    turn = (tissue.azimuth[candidates] - np.asarray(azimuth)[..., None] + 180) % 360 - 180
    across = turn * np.sin(np.radians(np.asarray(polar)))[..., None]
    along = tissue.polar[candidates] - np.asarray(polar)[..., None]
    return candidates[(across**2 + along**2).argmin(-1)]
