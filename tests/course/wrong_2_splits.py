"""Seven typical wrong answers to assignment 2, and the points that each test cell gives for them.

``WRONG[what is wrong]`` maps a solution cell's grade id to what the student wrote, and ``points``
to the test cells that give less than their full points. All other cells hold the solution. The hint
that a student gets is the one in the metadata of the cells that give less.
"""

WRONG = {
    "splits by record": {
        "split": """
def split(patients, shares, seed):
    rng = np.random.default_rng(seed)
    edges = np.round(np.cumsum(shares)[:-1] * len(patients)).astype(int)
    part = np.empty(len(patients), dtype=int)
    for number, rows in enumerate(np.split(rng.permutation(len(patients)), edges)):
        part[rows] = number
    return part
""",
        "points": {"split-check": 0, "split-patients": 0},
    },
    "takes the first record of a patient for the patient": {
        "folds": """
def stratified_folds(patients, positive, n_folds, seed):
    names, first, number = np.unique(patients, return_index=True, return_inverse=True)
    ill = np.asarray(positive)[first]
    rng = np.random.default_rng(seed)
    fold = np.empty(len(names), dtype=int)
    for group in (ill, ~ill):
        members = rng.permutation(np.flatnonzero(group))
        fold[members] = np.arange(len(members)) % n_folds + 1
    return fold[number]
""",
        "points": {"folds-any": 0},
    },
    "looks for leaks between training and test only": {
        "leaks": """
def leaks(patients, part):
    return sorted(set(patients[part == 0].tolist()) & set(patients[part == 2].tolist()))


def copies(signals, part):
    elsewhere = {record.tobytes() for record in signals[part != 2]}
    return sum(record.tobytes() in elsewhere for record in signals[part == 2])
""",
        "points": {"leaks-check": 0, "leaks-parts": 0},
    },
    "calls a draw of records honest": {
        "flattery": """
def flattery(features, targets, patients, seed):
    rng = np.random.default_rng(seed)
    one = rng.permutation(len(patients)) < len(patients) // 2
    two = rng.permutation(len(patients)) < len(patients) // 2
    return scored(features, targets, one), scored(features, targets, two)
""",
        "points": {"flattery-check": 0, "flattery-who": 0},
    },
    "standardises with all records": {
        "discipline": """
def standardise(train, other):
    everything = np.concatenate([train, other])
    mean, spread = everything.mean(axis=0), everything.std(axis=0)
    return (train - mean) / spread, (other - mean) / spread


def report(validation, test):
    return test[np.argmax(validation)]
""",
        "points": {"discipline-check": 0, "discipline-scale": 0},
    },
    "reports the best test value": {
        "discipline": """
def standardise(train, other):
    spread = np.where(train.std(axis=0) > 0, train.std(axis=0), 1)
    return (train - train.mean(axis=0)) / spread, (other - train.mean(axis=0)) / spread


def report(validation, test):
    return test.max()
""",
        "points": {"discipline-choice": 0},
    },
    "draws records, whatever it is asked for": {
        "interval": """
def interval(right, patients, by, n_resamples=1000, seed=0):
    right = np.asarray(right, float)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(right), (n_resamples, len(right)))
    return tuple(np.quantile(right[drawn].mean(axis=1), [0.025, 0.975]))
""",
        "points": {"interval-patients": 0, "interval-uneven": 0},
    },
}
