"""From the heart to the electrodes: the lead field, and twelve leads from eight.

A lead reads the dipole through its row of Dower's matrix. It also reads the quadrupole, and the
more so the closer its electrode is: for a source at distance r from an electrode in direction u the
potential of a dipole p and a quadrupole Q is

    strength (u . p  +  (3 u u - 1) : Q / r),

so one distance an electrode completes Dower's values. Eight leads see three dipole and five
quadrupole components. Rotating the dipole, as 3KG does, is therefore not rotating the heart.

Every patient's chest changes the rows; electrodes sit a little elsewhere every day.

Sources: Dower 1968; the multipole expansion of any book on electrostatics. Distances and
`POPULATION` were fitted to the median beats of PTB-XL (Wagner et al. 2020, CC BY 4.0).
Explained in the chapter *The heart vector*.
"""

import numpy as np

from ecgtutorial.leads import DOWER, INDEPENDENT, LEADS

# Distance from the heart to the electrode of I, II, V1 ... V6 in mm, and how much more or less than
# Dower's values the leads of PTB-XL show.
DISTANCE = np.array([4.0, 4.0, 0.9, 0.85, 0.85, 0.95, 1.1, 1.3]) * 197
POPULATION = np.array([1.00, 0.80, 0.82, 1.05, 0.88, 0.89, 0.93, 1.00])

_LIMIT = 16_000  # µV; devices clip


def lead_field(turn, centre, chest, day):
    """What each lead sees of dipole and quadrupole in heart coordinates, (record, 8, 9).

    turn: rotation from heart to body axes (record, 3, 3). centre: of the source, mm in heart axes
    (record, 3). chest: standard normal numbers of the patient (record, 8, 5): how the body changes
    the rows and the distances. day: the same of the recording (record, 8, 3): where the electrodes
    sit today.
    """
    rows = POPULATION[:, None] * DOWER  # (lead, axis)
    size = np.linalg.norm(rows, axis=1)[:, None]
    own = rows * (1 + 0.10 * chest[..., 3:4]) + 0.07 * size * chest[..., :3]
    # Two centimetres beside its place turn an electrode's view by several degrees.
    wide = np.array([0.02] * 2 + [0.06] * 6)[:, None]
    own = own + wide * np.linalg.norm(own, axis=-1, keepdims=True) * day  # (record, lead, 3)
    strength = np.linalg.norm(own, axis=-1)[..., None, None]
    unit = own / strength[..., 0]
    near = DISTANCE[:, None, None] * np.exp(0.12 * chest[..., 4:, None])
    view = strength * (3 * unit[..., :, None] * unit[..., None, :] - np.eye(3)) / near
    turn_ = turn[:, None]
    view = turn_.swapaxes(-1, -2) @ view @ turn_  # (record, lead, 3, 3), in heart axes
    dipole = (own[..., None, :] @ turn_)[..., 0, :] - (view @ centre[:, None, :, None])[..., 0]
    diagonal = view[..., (0, 1, 2), (0, 1, 2)]
    crossed = 2 * view[..., (0, 0, 1), (1, 2, 2)]
    return np.concatenate([dipole, diagonal, crossed], axis=-1)  # (record, lead, 9)


def rotation(vector):
    """Rotation matrices (..., 3, 3) about the directions of `vector` by its length, in radians."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(np.asarray(vector), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    safe = np.maximum(angle, 1e-12)  # Rodrigues' formula
    return (np.eye(3) + np.sin(angle) / safe * cross
            + (1 - np.cos(angle)) / safe**2 * (cross @ cross))  # fmt: skip


def twelve(eight):
    """Twelve leads in int16 µV from I, II, V1 ... V6 in mV, (record, lead, time).

    Einthoven's law holds to the microvolt, Goldberger's relations to its rounding.
    """
    micro = np.clip(np.rint(eight * np.float32(1000)), -_LIMIT, _LIMIT).astype(np.int16)
    signals = np.empty((len(micro), len(LEADS), micro.shape[2]), np.int16)
    one, two = micro[:, 0], micro[:, 1]
    signals[:, 0], signals[:, 1], signals[:, 2] = one, two, two - one
    signals[:, 3] = -((one + two) // 2)
    signals[:, 4] = one - two // 2
    signals[:, 5] = two - one // 2
    signals[:, 6:] = micro[:, len(INDEPENDENT) - 6 :]
    return signals
