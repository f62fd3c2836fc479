"""The simulated heart: who has what, how it beats, what the electrodes see of it."""

import numpy as np


def check_number(name, value, low, high, whole=False):
    """Raise ValueError unless `value` is a number from `low` to `high`, or a whole one."""
    number = isinstance(value, (int, float, np.integer, np.floating))
    if (
        isinstance(value, bool)
        or not number
        or not low <= value <= high  # nor is NaN in between
        or (whole and value != int(value))
    ):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name}: found {value!r}, expected {kind} from {low} to {high}")
