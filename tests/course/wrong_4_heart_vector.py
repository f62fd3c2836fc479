"""Typical wrong answers to assignment 4: {what is wrong: {grade_id: source, "points": {...}}}.

``points`` names the test cells that lose marks and what they still earn; all others earn theirs.
"""

WRONG = {
    "aVR without its minus sign": {
        "twelve-rows": """
def twelve_rows(rows):
    one, two = rows[:2]
    limb = [one, two, two - one, (one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([limb, rows[2:]])
""",
        "points": {"twelve-rows-check": 0, "twelve-rows-hidden": 0},
    },
    "the pseudo-inverse of all twelve rows": {
        "read-back": """
def read_back(rows):
    return np.linalg.pinv(twelve_rows(rows))
""",
        "points": {"read-back-hidden": 0},
    },
    "Dower's published inverse for every chest": {
        "read-back": """
def read_back(rows):
    return leads.inverse_dower12()
""",
        "points": {"read-back-check": 0, "read-back-hidden": 0},
    },
    "degrees taken for radians": {
        "rotation": """
def rotation(axis, degrees):
    k = "XYZ".index(axis)
    first, second = (k + 1) % 3, (k + 2) % 3
    cos, sin = np.cos(degrees), np.sin(degrees)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix
""",
        "points": {"rotation-check": 0, "rotation-hidden": 0},
    },
    "Y turned the other way": {
        "rotation": """
def rotation(axis, degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    if axis == "X":
        return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    if axis == "Y":
        return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
""",
        "points": {"rotation-hidden": 0},
    },
    "the change turned over": {
        "view-matrix": """
def view_matrix(change, forth, back, keep_rest=False):
    if keep_rest:
        return np.eye(12) + forth @ (change - np.eye(3)).T @ back
    return forth @ change.T @ back
""",
        "points": {"view-order-hidden": 0},
    },
    "the rest kept, and the old arrow with it": {
        "view-matrix": """
def view_matrix(change, forth, back, keep_rest=False):
    view = forth @ change @ back
    return np.eye(12) + view if keep_rest else view
""",
        "points": {"keep-rest-hidden": 0},
    },
    "arctan of the ratio": {
        "instruments": """
def axis_of(qrs):
    area = qrs.sum(axis=2)
    return np.degrees(np.arctan(2 / np.sqrt(3) * area[:, 5] / area[:, 0]))


def voltage_of(qrs):
    return qrs[:, 10:].max(axis=(1, 2)) - qrs[:, 6].min(axis=1)
""",
        "points": {"axis-hidden": 0},
    },
    "S in V1 taken with its sign": {
        "instruments": """
def axis_of(qrs):
    area = qrs.sum(axis=2)
    return np.degrees(np.arctan2(2 / np.sqrt(3) * area[:, 5], area[:, 0]))


def voltage_of(qrs):
    return qrs[:, 10:].max(axis=(1, 2)) + qrs[:, 6].min(axis=1)
""",
        "points": {"voltage-hidden": 0},
    },
    "counts compared in place of records": {
        "label-changes": """
def label_changes(views, instruments):
    share = {
        label: {
            view: abs(np.mean(read(matrix @ x)) - np.mean(read(x)))
            for view, matrix in views.items()
        }
        for label, (read, x) in instruments.items()
    }
    return pd.DataFrame(share)
""",
        "points": {"label-changes-hidden": 0},
    },
    "a rotation believed to keep a statement about direction": {
        "keeps": """
keeps = {"AFIB": True, "LAFB": True, "1AVB": True, "LVH": False, "LVOLT": False, "SBRAD": True}
""",
        "points": {"keeps-hidden": 0},
    },
    "the first unsafe angle, one direction only": {
        "largest-angle": """
def largest_angle(label, turn, qrs, share=0.05):
    before = label(qrs)
    for angle in range(1, 91):
        if np.mean(label(turn(angle) @ qrs) != before) > share:
            return angle
    return 90
""",
        "points": {"largest-angle-hidden": 0},
    },
}
