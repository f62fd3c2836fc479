"""From a diagnosis to the shape of a beat: what a statement does to muscle and conduction.

No statement has a template. A block takes away the roots of a bundle branch, and the front arrives
late. A scar is muscle without current. Ischaemia changes the action potential: a lower plateau
under the endocardium depresses ST, a long one inverts T. Hypertrophy is more muscle. QRS and ST-T
of all leads follow from the wall model of `ventricles`.

A beat has two shapes in nine channels (dipole and quadrupole in heart axes): QRS, the sum of what
every node adds when it fires, and ST-T, the sum of what it takes away when it recovers. Only the
second one is stretched with the rate.

Numbers in `NORMAL` were fitted to the median beats of PTB-XL's normal records and of four blocks,
then adjusted by hand, as were effects and spreads, until the medians of a cohort came near those of
PTB-XL (Wagner et al. 2020, CC BY 4.0, doi 10.1038/s41597-020-0495-6); `evaluate.realism` says how
near. Explained in *Arrhythmias and infarcts*.
"""

import functools

import numpy as np
from scipy.sparse import csc_array
from scipy.special import ndtr

from .torso import rotation
from .ventricles import NETWORKS, SEGMENTS, activation, nearest, sources, ventricles

UNIFORM, NORMAL_DRAWS = 24, 72  # random numbers a patient's heart takes
QRS_TIME = np.arange(-70.0, 290.0, 2.0)  # ms from the first activation
ST_TIME = np.arange(-70.0, 790.0, 5.0)  # ms, at a beat every `REST` seconds
P_TIME = np.arange(-20.0, 190.0, 5.0)  # ms from the onset of P
REST = 0.857  # s

NORMAL = {
    # Where and when (ms) fronts start: polar angle, azimuth, right ventricle's own wall, layer.
    "anterior fascicle": (66.1, 66.8, False, 0, 1.7),
    "posterior fascicle": (60.3, 274.6, False, 0, 1.1),
    "septal fascicle": (59.2, 152.6, False, 0, 0.0),
    "right branch": (25.0, 148.4, True, 0, 8.2),
    "right branch, outflow": (86.8, 162.7, True, 0, 7.6),
    "right branch, septum": (48.2, 152.5, False, 1, 4.7),
    "turn": (-0.287, 0.368, 0.147),  # of the heart from its textbook position, radians
    "centre": (7.0, -15.7, 21.6),  # of the source, mm
    "gain": 0.925 / 1200,  # mV for every mm² of front
    "slow": 1.36,  # of all travel times
    "right mass": 0.48, "outflow mass": 0.70, "basal mass": 0.83,
    "upstroke": 2.4,  # ms, width of the front
    # Duration of the action potential (ms) and its gradients over the wall.
    "apd": 255.0, "apd through": -0.8, "apd to apex": -47.9, "apd to lateral": -31.0,
    "apd to anterior": 4.3, "apd right": 34.5,
    "recovery": (84.2, 19.6), "T gain": 0.74,  # its slow begin and fast end (ms), its size
}  # fmt: skip

# Right and left atrium: dipole in body axes (mV), centre and width (ms from the onset of P).
_ATRIA = (((0.030, 0.062, -0.035), 38, 19), ((0.080, 0.052, 0.018), 72, 19))

# Centre (polar angle, azimuth in degrees) and radius (mm) of regions of the left ventricle. In this
# model the apex lies under V2 and V3, azimuth 20 under V5, 70 under aVL, 280 under aVF.
_INFARCTS = {
    "AMI": (28, 105, 23), "ASMI": (34, 165, 26), "ALMI": (36, 58, 23), "LMI": (72, 35, 15),
    "IMI": (55, 276, 16), "ILMI": (56, 318, 24), "IPMI": (80, 305, 22), "IPLMI": (68, 330, 26),
    "PMI": (90, 336, 22), "ANEUR": (28, 125, 26), "QWAVE": (56, 274, 15),
}  # fmt: skip
_ISCHAEMIA = {
    "ISCAL": (45, 30, 28), "ISCAS": (30, 150, 26), "ISCAN": (27, 95, 26), "ISCIN": (53, 278, 26),
    "ISCIL": (53, 315, 28), "ISCLA": (66, 25, 26), "ISC_": (48, 25, 34),
}  # fmt: skip
_INJURY = {
    "INJAS": (31, 125, 28), "INJAL": (44, 35, 30), "INJLA": (66, 28, 26), "INJIN": (53, 278, 26),
    "INJIL": (53, 315, 28),
}  # fmt: skip
# Share of the T wave lost at severity 1; more than 1 turns it over.
_FLATTER = {"NDT": 0.68, "LOWT": 0.6, "NT_": 0.5, "TAB_": 0.65, "INVT": 1.2, "DIG": 0.9,
            "NST_": 0.45, "LNGQT": 0.25, "LVH": 0.05, "AFIB": 0.3, "IMI": 0.35, "ASMI": 0.35,
            "AMI": 0.25, "ALMI": 0.5, "ILMI": 0.5, "LMI": 0.4, "IPLMI": 0.4,
            "IPMI": 0.3}  # fmt: skip


def shapes(has, age, female, u, z, ectopic, fs):
    """Shapes of one normal and one ectopic beat of many hearts.

    has: function from a statement to its severities (record,). age: years. female: bool (record,).
    u, z: the patient's uniform and normal numbers (record, `UNIFORM` and `NORMAL_DRAWS`).
    ectopic: which records need a beat from a ventricular focus, bool (record,). fs: Hz.
    Returns a dict: `qrs`, `st`, (record, 2, 9, time) at `QRS_TIME` and `ST_TIME`;
    `p` (record, 2, 3, time), mV in body axes; `turn`: heart to body axes (record, 3, 3); `centre`,
    mm (record, 3); `on`, `off`: of QRS, ms (record, 2); `focus`: node of the ectopic beat;
    `fires`, ms, in a conducted beat (record, node); and what `muscle` gives.
    """
    tissue = muscle(has, age, female, u, z)
    weights, recovery = tissue["weights"], (tissue["apd"], tissue["plateau"])
    fires, focus = _conducted(has, female, u, z, tissue["scar"]), _foci(u)
    qrs = np.zeros((len(age), 2, 9, len(QRS_TIME)), np.float32)
    st = np.zeros((len(age), 2, 9, len(ST_TIME)), np.float32)
    on, off = np.zeros((2, len(age), 2))
    qrs[:, 0], on[:, 0], off[:, 0] = depolarisation(fires, weights, fs)
    st[:, 0] = repolarisation(fires, *recovery, weights)
    rows = np.flatnonzero(ectopic)
    if len(rows):
        early, weights = _from_focus(focus[rows]), weights[rows]
        qrs[rows, 1], on[rows, 1], off[rows, 1] = depolarisation(early, weights, fs)
        st[rows, 1] = repolarisation(early, *(part[rows] for part in recovery), weights)
    return {"qrs": qrs, "st": st, "p": _p_waves(has, z, u), "turn": turn(has, age, z),
            "centre": np.array(NORMAL["centre"]) + 4 * z[:, 44:47], "on": on, "off": off,
            "focus": focus, "fires": fires, **tissue}  # fmt: skip


# --- muscle ---------------------------------------------------------------------------------------


def muscle(has, age, female, u, z):
    """What the walls of many hearts are made of; arguments as in `shapes`.

    Returns a dict: `scar`, share of dead muscle (record, node); `weights`, what every node adds to
    the nine channels, mV-sized (record, node, 9); `apd`, ms, and `plateau`, 1 if normal, of every
    action potential (record, node).
    """
    scar, border = _scars(has, z)
    apd, plateau = _recovery(has, age, female, u, z, border)
    weights = _weights(has, age, female, z, _mass(has, scar))
    return {"scar": scar, "weights": weights, "apd": apd, "plateau": plateau}


@functools.cache
def _basis():
    """Smooth fields over the wall, (8, node): by which hearts differ from each other."""
    tissue = ventricles()
    x, y, z = (tissue.position / (45, 35, 60)).T
    through = tissue.layer - 0.5
    return np.stack([x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * through]).astype(np.float32)


def smooth_field(numbers):
    """A smooth field of each record from eight numbers, (record, node)."""
    # One product a record: its rounding must not depend on how many records come together.
    return np.matmul(numbers.astype(np.float32)[:, None], _basis())[:, 0]


def _region(polar, azimuth, radius):
    """How much every node of the left ventricle belongs to a region, 0 to 1 (record, node)."""
    tissue = ventricles()
    theta, phi = np.radians(polar), np.radians(azimuth)
    centre = np.stack([27 * np.sin(theta) * np.cos(phi), 27 * np.sin(theta) * np.sin(phi),
                       65 * np.cos(theta)], axis=-1)  # fmt: skip
    apart = centre[:, None] - tissue.position  # (record, node, 3)
    near = np.exp(-0.5 * (apart**2).sum(-1) / np.asarray(radius)[:, None] ** 2)
    return (near * ~tissue.right).astype(np.float32)


def _places(where, rows, z, column):
    """Region weights of the records `rows`, its centre and size a little different in each."""
    polar, azimuth, radius = where
    own = z[rows, column : column + 3]
    size = radius * np.exp(0.12 * own[:, 2])
    return _region(polar + 5 * own[:, 0], azimuth + 9 * own[:, 1], size)


def _scars(has, z):
    """Share of muscle that is dead, and the region around it, both (record, node)."""
    tissue = ventricles()
    scar = np.zeros((len(z), len(tissue.layer)), np.float32)
    border = scar.copy()
    deep = np.where(tissue.layer == 0, 1, np.where(tissue.layer == 0.5, 0.92, 0.75))
    for name, where in _INFARCTS.items():
        rows = np.flatnonzero(has(name) > 0)
        if len(rows):
            severity = (0.6 if name == "QWAVE" else 1) * has(name)[rows, None]
            region = _places(where, rows, z, 32)
            dead = np.clip(1.9 * (0.27 + 0.68 * severity) * region - 0.35, 0, 0.97) * deep
            scar[rows] = 1 - (1 - scar[rows]) * (1 - dead)
            border[rows] = np.maximum(border[rows], region * severity)
    return scar, border


def _mass(has, scar):
    """Share of muscle, 1 where it is alive and of normal thickness, (record, node) or None."""
    tissue = ventricles()
    free = ~tissue.septal & ~tissue.right
    thick = np.sqrt(1 + 0.45 * has("LVH"))[:, None] * free + ~free
    basal = 1 - (1 - NORMAL["basal mass"]) * np.clip((tissue.polar - 70) / 32, 0, 1)
    thick = thick * basal
    thick *= np.where(tissue.septal, np.sqrt(1 + 0.7 * has("SEHYP"))[:, None], 1)
    right = np.where(tissue.polar > 85, NORMAL["outflow mass"], 1) * NORMAL["right mass"]
    # Late and alone, the right wall shows more than the fit to normal beats leaves of it.
    alone = 0.65 * np.minimum(_share(has, "CRBBB") + _share(has, "IRBBB"), 1) + 1.0 * has("RVH")
    right = right * (1 + alone)[:, None]
    return (np.where(tissue.right, right, thick) * (1 - scar)).astype(np.float32)


def _weights(has, age, female, z, mass):
    """What every node adds to the nine channels, mV-sized (record, node, 9)."""
    size = np.exp(0.19 * z[:, 0] - 0.003 * (age - 55)) * (1 - 0.09 * female)
    size *= 1 - 0.40 * (has("PACE") > 0)
    size *= (1 + 0.28 * np.maximum(has("VCLVH"), has("HVOLT"))) * (1 - 0.54 * has("LVOLT"))
    for name, block in _BLOCKS.items():
        size = size * (1 + (block[5] - 1) * np.minimum(_share(has, name), 1))
    size = (NORMAL["gain"] * size)[:, None, None].astype(np.float32)
    normal, sound = _sound()
    changed = (mass != normal).any(axis=1)
    weights = sound * size
    if changed.any():
        weights[changed] = sources(mass[changed]) * size[changed]
    return weights


@functools.cache
def _sound():
    """Mass of a wall without disease (1, node), and what its nodes add (1, node, 9)."""
    mass = _mass(lambda name: np.zeros(1), 0)
    return mass, sources(mass)


# --- conduction -----------------------------------------------------------------------------------

_FASCICLES = ("anterior fascicle", "posterior fascicle", "septal fascicle")
_BRANCHES = ("right branch", "right branch, outflow", "right branch, septum")
_NO_ANTERIOR = ("posterior fascicle", "septal fascicle", *_BRANCHES)
_NO_POSTERIOR = ("anterior fascicle", "septal fascicle", *_BRANCHES)
# Roots that are left, network, how much longer all takes, share of it at severity 0 and 1; then
# what the median beats ask for besides, at a full block: a turn of the heart in body axes
# (radians; such hearts are older and lie flatter) and its size.
_BLOCKS = {
    "CLBBB": (_BRANCHES, "right", 1.10, (0.85, 1.05), (0.19, -0.12, 0.87), 0.88),
    "ILBBB": (_BRANCHES, "right", 1.10, (0.15, 0.55), (0.19, -0.12, 0.87), 1.05),
    "CRBBB": (_FASCICLES, "left", 0.86, (0.90, 1.05), (-0.07, -0.85, -0.26), 0.88),
    "IRBBB": (_FASCICLES, "left", 0.92, (0.12, 0.50), (-0.07, -0.85, -0.26), 0.85),
    "LAFB": (_NO_ANTERIOR, "no anterior", 1.0, (0.50, 0.95), (-0.25, -0.40, -1.50), 0.72),
    "LPFB": (_NO_POSTERIOR, "no posterior", 1.0, (0.15, 0.35), (-0.08, -0.05, 1.40), 0.75),
}  # fmt: skip


def _share(has, name):
    """How much of a block there is: 0 none, 1 complete (record,)."""
    least, most = _BLOCKS[name][3]
    return np.where(has(name) > 0, least + (most - least) * np.minimum(has(name), 1.1), 0)


def _front(names, network, z):
    """Activation from the named roots, each a little elsewhere in every heart (record, node)."""
    roots, start = [], []
    for name in names:
        k = (_FASCICLES + _BRANCHES).index(name)
        polar, azimuth, right, layer, time = NORMAL[name]
        own = z[:, 61:64] if k == 5 else z[:, 1 + 3 * k : 4 + 3 * k]
        roots.append(nearest(polar + 3 * own[:, 0], azimuth + 5 * own[:, 1], right, layer))
        start.append(time + 1.2 * own[:, 2])
    state = np.full((len(z), 1), NETWORKS.index(network))
    fires = activation(np.stack(roots, 1), np.stack(start, 1), state)
    return NORMAL["slow"] * (fires - fires.min(axis=1, keepdims=True))


def _conducted(has, female, u, z, scar):
    """When every node fires in a conducted beat, ms from the first one (record, node)."""
    tissue = ventricles()
    normal = _front(_FASCICLES + _BRANCHES, "both", z)
    fires = normal.copy()
    for name, (roots, network, slow, *_) in _BLOCKS.items():
        rows = np.flatnonzero(has(name) > 0)
        if len(rows):
            blocked = slow * _front(roots, network, z[rows])
            fires[rows] += _share(has, name)[rows, None] * (blocked - normal[rows])
    fires += 1.1 * smooth_field(z[:, 16:24])
    # A scar is conducted around; hypertrophy takes longer to cross.
    fires += 14 * scar + (6 * has("LVH"))[:, None] * tissue.layer * ~tissue.right
    fires += (8 * has("RVH"))[:, None] * tissue.right
    waves = np.matmul(3.1 * z[:, None, 24:27] + (0.9, -0.6, 0.7), tissue.position.T / 25)[:, 0]
    rough = np.sin(waves + z[:, 27:28])
    fires += (9 * np.maximum(has("ABQRS"), 0.6 * has("IVCD")))[:, None] * rough
    wide = np.exp(0.07 * z[:, 28]) * (1 - 0.05 * female) * (1 + 0.22 * has("IVCD"))
    fires = fires * wide[:, None]
    fires -= fires.min(axis=1, keepdims=True)
    fires = _pre_excited(has, u, fires)
    paced = np.flatnonzero(has("PACE") > 0)
    if len(paced):
        apex = nearest(np.full(len(paced), 30.0), 180 + 40 * (u[paced, 10] - 0.5), True)
        fires[paced] = 1.15 * _from_focus(apex)
    return fires.astype(np.float32)


def _pre_excited(has, u, fires):
    """An accessory pathway at the base fires before the AV node lets the front through."""
    rows = np.flatnonzero(has("WPW") > 0)
    if len(rows):
        place = u[rows, 11]
        right = place > 0.72
        azimuth = np.where(right, 180 + 50 * (u[rows, 12] - 0.5), 300 + 110 * u[rows, 12])
        base = np.full(len(rows), 98.0)
        root = np.where(right, nearest(base - 8, azimuth, True), nearest(base, azimuth))
        early = 12 + 38 * has("WPW")[rows]
        none = np.full((len(rows), 1), NETWORKS.index("none"))
        delta = activation(root[:, None], -early[:, None], none)
        fires[rows] = np.minimum(fires[rows], delta)  # fusion; it begins before time 0
    return fires


def _foci(u):
    """The node where a patient's ventricular premature beats begin (record,)."""
    segment = ventricles().segment
    outflow = np.flatnonzero(segment == SEGMENTS.index("RVOT"))
    base = np.flatnonzero(segment == SEGMENTS.index("LVOT"))
    pick = u[:, 13]
    anywhere = (pick * len(segment)).astype(int)
    return np.select(
        [u[:, 14] < 0.40, u[:, 14] < 0.55],
        [outflow[(pick * len(outflow)).astype(int)], base[(pick * len(base)).astype(int)]],
        anywhere,
    )


def _from_focus(node):
    """Activation by muscle alone from one node, ms (record, node)."""
    none = np.full((len(node), 1), NETWORKS.index("none"))
    return activation(node[:, None], np.zeros((len(node), 1)), none)


# --- recovery -------------------------------------------------------------------------------------


def _recovery(has, age, female, u, z, border):
    """Duration of every action potential (ms) and its plateau, 1 if normal: (record, node)."""
    tissue = ventricles()
    x, y, axis = (tissue.position / (32, 32, 60)).T
    gradient = (NORMAL["apd to apex"] * axis + NORMAL["apd to lateral"] * x
                + NORMAL["apd to anterior"] * y + NORMAL["apd through"] * tissue.layer
                + NORMAL["apd right"] * tissue.right)  # fmt: skip
    own = gradient + 3.6 * smooth_field(z[:, 29:37])
    lost = np.prod([1 - share * np.minimum(has(name), 1) for name, share in _FLATTER.items()], 0)
    potassium = np.where(u[:, 15] < 0.3, 1 + 0.9 * has("EL"), 1 - 0.6 * has("EL"))
    size = np.exp(0.22 * z[:, 37] - 0.004 * (age - 55)) * (1 - 0.12 * female) * lost * potassium
    apd = own * size[:, None] + (NORMAL["apd"] + 13 * z[:, 38] + 8 * female)[:, None]
    apd += (105 * has("LNGQT") - 28 * has("DIG") + 15 * has("EL"))[:, None]
    plateau = np.ones_like(apd, np.float32)
    inner = (1 - tissue.layer) * ~tissue.right
    outer = (0.3 + 0.7 * tissue.layer) * ~tissue.right
    strain = np.clip(x + 0.6 * axis, 0, 2) * ~tissue.right
    apd += 8 * has("LVH")[:, None] * strain * outer
    diffuse = 0.02 * has("LVH") ** 2 + 0.22 * has("STD_") + 0.18 * has("DIG")
    diffuse += 0.05 * has("NST_")
    plateau -= diffuse[:, None] * inner
    plateau -= (0.11 * has("STE_"))[:, None] * tissue.layer * ~tissue.right
    for table, longer, lower in ((_ISCHAEMIA, 75, 0.13), (_INJURY, 115, 0.28)):
        for name, where in table.items():
            rows = np.flatnonzero(has(name) > 0)
            if len(rows):
                region = _places(where, rows, z, 39) * has(name)[rows, None]
                apd[rows] += longer * region * outer
                plateau[rows] -= lower * region * inner
    _stage(has, u, border, outer, apd, plateau)
    return apd.astype(np.float32), plateau


def _stage(has, u, border, outer, apd, plateau):
    """An infarct's age: acute lifts ST, weeks later T is negative, an old one leaves a trace."""
    stage = u[:, 16]
    acute = np.where(stage < 0.12, 1, np.where(stage < 0.35, 0.25, 0.03))
    acute = np.maximum(acute, 0.8 * has("ANEUR"))  # an aneurysm: ST stays up
    inverted = np.where(stage < 0.12, 0.2, np.where(stage < 0.5, 1, 0.45))
    apd += 70 * inverted[:, None] * border * outer
    plateau -= (0.34 * acute)[:, None] * border * (0.4 + 0.6 * outer)


# --- shapes ---------------------------------------------------------------------------------------


def depolarisation(fires, weights, fs):
    """QRS of beats whose nodes fire at `fires`, ms (record, node), seen at `fs` Hz.

    weights: see `muscle`. Returns its nine channels, float32 (record, 9, time) at `QRS_TIME`, and
    the first and the last activation that counts, ms (record,): 0.4 % of all currents are outside.
    """
    # A device samples what its anti-alias filter leaves of a front's width.
    width = np.hypot(NORMAL["upstroke"], 300 / fs)
    size = np.linalg.norm(weights[..., :3], axis=-1)
    order = np.argsort(fires, axis=1)
    done = np.cumsum(np.take_along_axis(size, order, 1), axis=1)
    done /= done[:, -1:]
    ends = np.stack([(done < 0.004).sum(1), (done < 0.996).sum(1)], axis=1)
    on, off = np.take_along_axis(np.take_along_axis(fires, order, 1), ends, 1).T
    return _sum_of_steps(fires, weights, QRS_TIME, width, width), on, off


def repolarisation(fires, apd, plateau, weights):
    """ST-T in nine channels, float32 (record, 9, time) at `ST_TIME`; arguments as in `muscle`.

    It is minus what recovers, and what an unequal plateau leaves of ST.
    """
    st = -_sum_of_steps(fires + apd, weights * plateau[..., None], ST_TIME, *NORMAL["recovery"])
    injured = np.flatnonzero((plateau != 1).any(axis=1))
    if len(injured):
        lost = (plateau[injured] - 1)[..., None] * weights[injured]
        st[injured] += _sum_of_steps(fires[injured], lost, ST_TIME, 10.0, 10.0)
    return NORMAL["T gain"] * st


def _sum_of_steps(times, weights, grid, rising, falling):
    """Sum over nodes of weight x smooth step at its time: float32 (record, 9, time)."""
    step, length = grid[1] - grid[0], len(grid)
    bins = np.clip(((times - grid[0]) / step).astype(np.int64), 0, length - 1)  # (record, node)
    place = (bins + length * np.arange(len(times))[:, None]).ravel()
    # A matrix with a 1 for every node, in the row of its record's bin: sums in double precision.
    into = csc_array((np.ones(place.size), place, np.arange(place.size + 1)),
                     shape=(len(times) * length, place.size))  # fmt: skip
    sums = (into @ weights.reshape(place.size, -1)).reshape(len(times), length, -1)
    sums = np.ascontiguousarray(sums.swapaxes(1, 2), np.float32)
    return np.matmul(sums, _step(step, length, rising, falling))


@functools.lru_cache(maxsize=16)
def _step(step, length, rising, falling):
    """Smooth steps, (from, to): what one node that switches in bin `from` adds at time `to`."""
    apart = step * (np.arange(length) - np.arange(length)[:, None] - 0.5)
    before = 2 * rising * ndtr(apart / rising)
    after = rising + falling * (2 * ndtr(apart / falling) - 1)
    return (np.where(apart < 0, before, after) / (rising + falling)).astype(np.float32)


# --- position and atria ---------------------------------------------------------------------------


def turn(has, age, z, fitted=1):
    """How the heart lies in the chest: rotations from heart to body axes (record, 3, 3).

    has, age, z: as in `shapes`. fitted: share of `NORMAL["turn"]`.
    """
    apex, septum = np.array([0.66, 0.45, -0.60]), np.array([-0.67, 0.02, -0.73])
    apex /= np.linalg.norm(apex)
    septum -= apex * (apex @ septum)
    septum /= np.linalg.norm(septum)
    textbook = np.stack([-septum, np.cross(apex, -septum), apex], axis=1)
    own = np.radians(np.stack([8 * z[:, 47], 8 * z[:, 48], 12 * z[:, 49] - 0.22 * (age - 55)], 1))
    own[:, 2] -= np.radians(8) * has("LVH")
    own = own + has("RVH")[:, None] * np.array((0.10, -0.35, 0.45))
    own = own + (has("PACE") > 0)[:, None] * np.array((0.20, 0.20, -0.70))
    for name, block in _BLOCKS.items():
        own = own + np.minimum(_share(has, name), 1)[:, None] * np.array(block[4])
    return rotation(own) @ rotation(fitted * np.array(NORMAL["turn"])) @ textbook


def _p_waves(has, z, u):
    """P of the sinus node and of an ectopic focus in body axes, float32 mV (record, 2, 3, time)."""
    waves = np.zeros((len(z), 2, 3, len(P_TIME)), np.float32)
    size = np.exp(0.28 * z[:, 50])
    enlarged = (has("RAO/RAE"), has("LAO/LAE"))
    for k, (dipole, centre, width) in enumerate(_ATRIA):
        own = np.array(dipole) * (1 + 0.25 * z[:, 51 + 3 * k : 54 + 3 * k])
        own = own * (size * (1 + (2.8, 0.6)[k] * enlarged[k]))[:, None]
        if k == 1:  # a large left atrium lies behind and is late: P ends negative in V1
            own[:, 2] += 0.05 * enlarged[1]
        middle = centre * np.exp(0.10 * z[:, 57]) + 16 * k * enlarged[1]
        wide = (width * (1 + 0.2 * enlarged[k]))[:, None]
        wave = np.exp(-0.5 * ((P_TIME - middle[:, None]) / wide) ** 2)
        waves[:, 0] += own[:, :, None] * wave[:, None]
    axis = z[:, 58:61] / np.maximum(np.linalg.norm(z[:, 58:61], axis=1, keepdims=True), 1e-12)
    elsewhere = rotation((u[:, 17:18] + 0.6) * 1.6 * axis)
    waves[:, 1] = np.matmul(elsewhere, waves[:, 0]) * 0.8
    return waves
