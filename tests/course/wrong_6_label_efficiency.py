"""Typical wrong answers to assignment 6: {what is wrong: {grade_id: source, "points": {...}}}.

``points`` names the test cells that lose marks and what they still earn; all others earn theirs.
"""

WRONG = {
    "a share of the records, not of the patients": {
        "budget-rows": """
def budget_rows(patients, fraction, draw):
    order = np.random.default_rng(draw).permutation(len(patients))
    return np.sort(order[: max(1, round(fraction * len(patients)))])
""",
        "points": {"budget-rows-check": 0, "budget-rows-hidden": 0},
    },
    "budgets of one draw that are not nested": {
        "budget-rows": """
def budget_rows(patients, fraction, draw):
    names = np.unique(patients)
    n = max(1, round(fraction * len(names)))
    chosen = np.random.default_rng((draw, n)).permutation(names)[:n]
    return np.flatnonzero(np.isin(patients, chosen))
""",
        "points": {"budget-rows-hidden": 0},
    },
    "the same patients in every draw": {
        "budget-rows": """
def budget_rows(patients, fraction, draw):
    names = np.unique(patients)
    order = np.random.default_rng(0).permutation(names)
    return np.flatnonzero(np.isin(patients, order[: max(1, round(fraction * len(names)))]))
""",
        "points": {"budget-rows-hidden": 0},
    },
    "a bootstrap over records": {
        "resample": """
def resample(patients, generator):
    return generator.integers(len(patients), size=len(patients))
""",
        "points": {"resample-hidden": 0},
    },
    "a patient drawn twice counted once": {
        "resample": """
def resample(patients, generator):
    drawn = generator.choice(np.unique(patients), len(np.unique(patients)))
    return np.flatnonzero(np.isin(patients, drawn))
""",
        "points": {"resample-check": 0, "resample-hidden": 0},
    },
    "the first draw only": {
        "bootstrap-auc": """
def bootstrap_auc(targets, scores, samples):
    return np.array([metrics.macro_auc(targets[s], scores[0][s]) for s in samples])
""",
        "points": {"bootstrap-auc-hidden": 0},
    },
    "scores averaged in place of AUCs": {
        "bootstrap-auc": """
def bootstrap_auc(targets, scores, samples):
    mean = np.mean(scores, axis=0)
    return np.array([metrics.macro_auc(targets[s], mean[s]) for s in samples])
""",
        "points": {"bootstrap-auc-hidden": 0},
    },
    "other labels for every method": {
        "study": """
def study(budgets, draws, rows_of, methods):
    scores = {}
    for budget in budgets:
        for name, method in methods.items():
            scores[name, budget] = np.stack([method(rows_of(budget, d), d) for d in draws])
    return scores
""",
        "points": {"study-hidden": 0},
    },
    "scores averaged over the draws at once": {
        "study": """
def study(budgets, draws, rows_of, methods):
    scores = {}
    for budget in budgets:
        rows = [rows_of(budget, draw) for draw in draws]
        for name, method in methods.items():
            scores[name, budget] = np.mean([method(r, d) for r, d in zip(rows, draws)], axis=0)
    return scores
""",
        "points": {"study-check": 0, "study-hidden": 0},
    },
    "the difference of two intervals for the interval of the difference": {
        "summarise": """
def summarise(values, resampled, reference="scratch"):
    rows = []
    for method, budget in values:
        low, high = metrics.interval(resampled[method, budget])
        other_low, other_high = metrics.interval(resampled[reference, budget])
        rows.append({
            "method": method, "budget": budget,
            "value": values[method, budget], "low": low, "high": high,
            "difference": values[method, budget] - values[reference, budget],
            "difference_low": low - other_high, "difference_high": high - other_low,
        })
    return pd.DataFrame(rows)
""",
        "points": {"paired-hidden": 0},
    },
    "compared with the reference at all labels": {
        "summarise": """
def summarise(values, resampled, reference="scratch"):
    rows, most = [], max(budget for _, budget in values)
    for method, budget in values:
        low, high = metrics.interval(resampled[method, budget])
        gap = metrics.interval(resampled[method, budget] - resampled[reference, most])
        rows.append({
            "method": method, "budget": budget,
            "value": values[method, budget], "low": low, "high": high,
            "difference": values[method, budget] - values[reference, most],
            "difference_low": gap[0], "difference_high": gap[1],
        })
    return pd.DataFrame(rows)
""",
        "points": {"paired-hidden": 0},
    },
    "curves without intervals": {
        "draw-curves": """
def draw_curves(table):
    fig, ax = plt.subplots()
    for method, part in table.groupby("method"):
        ax.plot(100 * part["budget"], part["value"], "o-", label=method)
    ax.set(xscale="log", xlabel="labelled patients (%)", ylabel="macro AUC")
    ax.legend()
    return ax
""",
        "points": {"draw-curves-check": 0},
    },
}
