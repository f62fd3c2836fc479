"""Six typical wrong answers to assignment 1, and the points that each test cell gives for them.

``WRONG[what is wrong]`` maps a solution cell's grade id to what the student wrote, and ``points``
to the test cells that give less than their full points. All other cells hold the solution. The hint
that a student gets is the one in the metadata of the cells that give less.
"""

WRONG = {
    "aVR has the wrong sign": {
        "limb-leads": """
def limb_leads(lead_i, lead_ii):
    iii = lead_ii - lead_i
    avr = (lead_i + lead_ii) / 2
    avl = lead_i - lead_ii / 2
    avf = lead_ii - lead_i / 2
    return np.stack([lead_i, lead_ii, iii, avr, avl, avf], axis=-2)
""",
        "points": {"limb-leads-goldberger": 0},
    },
    "restores from I and II only, which may be the lost ones": {
        "restore": """
def restore(limb):
    if (~np.isnan(limb).any(axis=1)).sum() < 2:
        raise ValueError("fewer than two leads are left")
    lead_i, lead_ii = limb[0], limb[1]
    iii, avr = lead_ii - lead_i, -(lead_i + lead_ii) / 2
    return np.stack([lead_i, lead_ii, iii, avr, lead_i - lead_ii / 2, lead_ii - lead_i / 2])
""",
        "points": {"restore-any-two": 0},
    },
    "swapped arms turn lead I round and nothing else": {
        "swap": """
def swap_arms(limb):
    swapped = limb.copy()
    swapped[..., 0, :] *= -1
    return swapped


def arms_swapped(signals):
    beats = signals - np.median(signals, axis=-1, keepdims=True)
    return (beats[:, 0] * beats[:, 11]).sum(axis=-1) < 0
""",
        "points": {"swap-algebra": 0},
    },
    "finds swapped arms by the mean of lead I, which a constant decides": {
        "swap": """
def swap_arms(limb):
    swapped = limb[..., [0, 2, 1, 4, 3, 5], :].copy()
    swapped[..., 0, :] *= -1
    return swapped


def arms_swapped(signals):
    return signals[:, 0].mean(axis=-1) < 0
""",
        "points": {"swap-detect": 0},
    },
    "counts rounding errors as leads": {
        "measured": """
def n_measured(signals, step=0.001):
    centred = signals - signals.mean(axis=1, keepdims=True)
    return int(np.linalg.matrix_rank(centred))
""",
        "points": {"measured-count": 0},
    },
    "subtracts the baseline in 16 bits": {
        "millivolts": """
def to_millivolts(digital, gain, baseline, units):
    size = np.array([{"mV": 1.0, "uV": 0.001, "V": 1000.0}[unit] for unit in units])
    return (digital - baseline[:, None]) / gain[:, None] * size[:, None]
""",
        "points": {"millivolts-range": 0},
    },
}
