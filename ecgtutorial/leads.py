"""Lead names, limb-lead algebra and the heart vector's linear maps.

Twelve leads are linear readings of fewer things. Nine electrodes on the torso (plus ground)
give eight independent voltages; the four other leads follow from them by arithmetic. And most of
those eight are explained by three numbers, the heart vector. This module holds both facts as
matrices. Explained in the chapters *The twelve-lead ECG* and *3KG*.

Sources: limb-lead algebra, Einthoven 1913 and Goldberger 1942; Dower's lead field and its inverse,
Dower 1968 and Edenbrandt & Pahlm 1988; regression matrix, Kors et al. 1990.
"""

import numpy as np

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")

# The lead sets of paper A (Oh et al. 2022, section 4): twelve, six limb leads, I+II+V2, I+II, I.
SUBSETS = {
    12: LEADS,
    6: ("I", "II", "III", "aVF", "aVL", "aVR"),
    3: ("I", "II", "V2"),
    2: ("I", "II"),
    1: ("I",),
}

# The 12 standard leads from the 8 independent ones: standard = EXPANSION @ independent.  (12, 8)
EXPANSION = np.zeros((12, 8))
EXPANSION[0, 0] = EXPANSION[1, 1] = 1  # I, II are measured
EXPANSION[2, :2] = -1, 1  # III = II - I            (Einthoven)
EXPANSION[3, :2] = -0.5, -0.5  # aVR = -(I + II) / 2     (Goldberger)
EXPANSION[4, :2] = 1, -0.5  # aVL = I - II / 2        (Goldberger)
EXPANSION[5, :2] = -0.5, 1  # aVF = II - I / 2        (Goldberger)
EXPANSION[6:, 2:] = np.eye(6)  # V1 ... V6 are measured

# Axes of the heart vector: X to the patient's left, Y down, Z to the back.
# Rows I, II, V1 ... V6; columns X, Y, Z.  (8, 3)
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

# Rows X, Y, Z; columns I, II, V1 ... V6.  (3, 8)
INVERSE_DOWER = np.array(
    [
        [0.156, -0.010, -0.172, -0.074, 0.122, 0.231, 0.239, 0.194],
        [-0.227, 0.887, 0.057, -0.019, -0.106, -0.022, 0.041, 0.048],
        [0.022, 0.102, -0.229, -0.310, -0.246, -0.063, 0.055, 0.108],
    ]
)

# A regression on measured vectors, not an inverse of DOWER.  (3, 8)
KORS = np.array(
    [
        [0.38, -0.07, -0.13, 0.05, -0.01, 0.14, 0.06, 0.54],
        [-0.07, 0.93, 0.06, -0.02, -0.05, 0.06, -0.17, 0.13],
        [0.11, -0.23, -0.43, -0.06, -0.14, -0.20, -0.11, 0.31],
    ]
)

_CANONICAL = {name.upper(): name for name in LEADS}


def canonical(name):
    """The standard spelling of a lead's name: ``"AVR"`` and ``"avr "`` give ``"aVR"``.

    Raises ``ValueError`` for a name that is not one of the twelve standard leads.
    """
    try:
        return _CANONICAL[name.strip().upper()]
    except (KeyError, AttributeError):
        raise ValueError(
            f"unknown lead {name!r}: expected one of {', '.join(LEADS)} (upper or lower case)"
        ) from None


def index(names):
    """Positions of leads in `LEADS`, as a list of ints. `names`: a sequence of lead names."""
    if isinstance(names, str):
        raise ValueError(f"names must be a sequence of lead names, found the string {names!r}")
    return [LEADS.index(canonical(name)) for name in names]


def limb_leads(lead_i, lead_ii):
    """The six limb leads from leads I and II.

    `lead_i`, `lead_ii`: voltages in any unit, arrays of one shape (..., time).
    Returns I, II, III, aVR, aVL, aVF in a new axis before time: (..., 6, time).
    Source: Einthoven, Goldberger. Chapter: *The twelve-lead ECG*.
    """
    return np.stack(
        [
            lead_i,
            lead_ii,
            lead_ii - lead_i,  # III
            -(lead_i + lead_ii) / 2,  # aVR
            lead_i - lead_ii / 2,  # aVL
            lead_ii - lead_i / 2,  # aVF
        ],
        axis=-2,
    )  # (..., 6, time)


def dower12():
    """Dower's lead field for all twelve leads, (12, 3): standard leads = dower12() @ vector."""
    return EXPANSION @ DOWER


def inverse_dower12():
    """The inverse Dower map as a (3, 12) matrix that reads the eight independent leads only."""
    matrix = np.zeros((3, 12))
    matrix[:, index(INDEPENDENT)] = INVERSE_DOWER
    return matrix
