"""Untrained encoders of growing width, beside what pre-training made of the usual ones."""

import dataclasses
import functools

from .. import losses, metrics, runs
from ..encoders import random_features, recurrent, s4, xresnet
from ..evaluate import label_efficiency, probe, windows
from ..evaluate import random_width as width
from ..methods import cpc, simclr
from .common import alone, filled
from .everyone import ALL_SUBSETS, all_entrants, all_options
from .mehari import mehari

# Filters, channels of an untrained xresnet, and label budgets.
RANDOM_WIDTH = {
    "quick": {"kernels": (10, 30, 100), "channels": (32,), "budgets": (0.1, 1.0)},
    "full": {"budgets": (0.02, 0.1, 1.0)},
    "paper": {"kernels": (*width.KERNELS, 10_000), "budgets": (0.01, 0.02, 0.1, 1.0)},
}
PRETRAINED = ("simclr", "cpc")  # held against


def s4_run(train, scale, seed=0, progress=True):
    """CPC with state spaces in the LSTM's place: the run, trained as CPC is at this scale."""
    method_class, arguments, training = mehari("cpc", scale)
    return runs.pretrained(
        method_class, train, method={**arguments, "encoder": "cpc-s4"}, seed=seed,
        progress=progress, **training,
    )  # fmt: skip


def _s4_encoder(*arguments):
    return s4_run(*arguments).encoder


def random_width_entrants(cohort, scale, seeds=(0,), progress=True):
    """The encoders of `PRETRAINED`, CPC's with state spaces, and random ones, narrow to wide."""
    train = cohort.split()[0]
    for seed in seeds:
        make = functools.partial(_s4_encoder, train, scale, seed, progress)
        identity = runs.config_hash([*mehari("cpc", scale)[1:], "cpc-s4"])
        yield label_efficiency.Entrant("cpc-s4", seed, identity, make, ("probe",))
    for one in all_entrants(cohort, scale, seeds, progress):
        if one.method in PRETRAINED:
            yield dataclasses.replace(one, protocols=("probe",))
    sizes = {k: v for k, v in RANDOM_WIDTH[scale].items() if k != "budgets"}
    yield from width.random_entrants(**sizes, seeds=seeds)


def run_random_width(cohort, scale, seeds, path, progress=True):
    """How wide must an encoder be that never learned? Fills the table at `path`.

    The summary has for every random encoder, and for ``cpc-s4``, the differences
    ``macro_auc_over_cpc`` and ``macro_auc_over_simclr``. Chapter: *Beyond the papers*.
    """
    everyone = list(random_width_entrants(cohort, scale, seeds, alone(progress)))
    others = [one.method for one in everyone if one.method not in PRETRAINED]
    budgets = RANDOM_WIDTH[scale]["budgets"]
    options = {k: v for k, v in all_options(scale).items() if k != "fine_tuning"} | {
        "budgets": budgets, "subsets": {b: ALL_SUBSETS[scale][b] for b in budgets},
        "over": {name: dict.fromkeys(others, name) for name in PRETRAINED},
    }  # fmt: skip
    return filled(
        "random-width", width.random_width, everyone, cohort, scale, seeds, path, progress, options,
        settings=options,
        code=runs.definitions(
            random_features, xresnet, recurrent, s4, cpc, simclr, losses, metrics, probe, windows,
            label_efficiency, width,
        ),
    )  # fmt: skip
