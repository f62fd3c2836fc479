"""Count what is in the cohorts, for their data cards: results/cards.json.

    python book/_tools/cards.py --data path/to/ptb-xl

Without ``--data`` the card of PTB-XL stays as it is, and the simulated cohorts' are made anew.
"""

import argparse
import json
from pathlib import Path

from ecgtutorial.experiments import open_for

OUT = Path(__file__).resolve().parents[2] / "results" / "cards.json"


def card(cohort):
    """The countable part of a cohort's data card: {what: number, text or {class: number}}."""
    table, patients = cohort.table, cohort.table["patient_id"].value_counts()
    age = table["age"][table["age"] < 120]  # PTB-XL writes 300 for "older than 89"
    targets = cohort.targets("superclass")
    facts = {
        "fingerprint": cohort.fingerprint,
        "records": len(cohort),
        "patients": len(patients),
        "patients with several records": int((patients > 1).sum()),
        "seconds": cohort.signals.shape[2] / cohort.fs,
        "fs": cohort.fs,
        "age": [float(age.min()), *age.quantile([0.25, 0.5, 0.75]), float(age.max())],
        "older than 89": int((table["age"] >= 120).sum()),
        "age not given": int(table["age"].isna().sum()),
        "women": float((table["sex"] == "female").mean()),
        "statements": int((cohort.labels.sum() > 0).sum()),
        "superclasses": {name: int(n) for name, n in targets.sum().items()},
        "none of the superclasses": int((targets.sum(axis=1) == 0).sum()),
        "records of each fold": [int((table["fold"] == k).sum()) for k in range(1, 11)],
    }
    if "device" in table:
        years = table["recording_date"].astype(str).str[:4].astype(int)
        facts["devices"] = int(table["device"].str.strip().nunique())
        facts["years"] = [int(years.min()), int(years.max())]
        facts["checked by a person"] = _by_fold(table["validated_by_human"], table)
    if "true_statements" in table:
        said = [" ".join(row.index[row == 1]) for _, row in cohort.labels.iterrows()]
        true = table["true_statements"].fillna("").map(lambda text: set(text.split()))
        facts["label differs from the truth"] = sum(set(a.split()) != b for a, b in zip(said, true))
    return facts


def _by_fold(column, table):
    """Shares of true values in folds 1-8, 9 and 10."""
    parts = (table["fold"] <= 8, table["fold"] == 9, table["fold"] == 10)
    return [float(column[part].astype(bool).mean()) for part in parts]


def main():
    parser = argparse.ArgumentParser(description="Write results/cards.json.")
    parser.add_argument("--data", help="folder in PTB-XL's layout")
    arguments = parser.parse_args()
    cards = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for name in ("simulated", *(["ptb-xl"] if arguments.data else [])):
        cards[name] = card(open_for("full", name, arguments.data))
    OUT.write_text(json.dumps(cards, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
