"""The published experiments: which methods meet, at which scale, with which settings.

    python -m ecgtutorial.experiments label-efficiency-all ptb-xl --data path/to/ptb-xl --jobs 2

fills ``results/ptb-xl/label-efficiency-all.csv``. Stop it when you like: it goes on where it
stopped. With ``--scheduler tcp://...`` its cells are computed on a Dask cluster. One file a paper:
`oh` (A), `mehari` (B), `ran` (C), `gopal` (D), `everyone` for all methods side by side, and
`beyond` for what goes further.
"""

import functools

from .beyond import (
    ATTEMPTS,
    ATTEMPTS_SUBSETS,
    BEYOND_SUBSETS,
    TEACHER,
    attempts_entrants,
    beyond_entrants,
    run_attempts,
    run_beyond,
    teacher_run,
)
from .common import (
    RAN_SCALES,
    SCALES,
    SIMULATED,
    filled,
    open_for,
    random_encoder,
    untrained,
)
from .everyone import (
    ALL_BUDGETS,
    ALL_FINE_TUNING,
    ALL_NETWORKS,
    ALL_OVER,
    ALL_REFERENCE,
    ALL_SUBSETS,
    TRAIT_SUBSETS,
    UNLABELLED,
    UNLABELLED_BUDGETS,
    all_encoder,
    all_entrants,
    all_options,
    all_run,
    joined,
    run_all_methods,
    run_health,
    run_label_efficiency_all,
    run_traits,
    run_unlabelled,
    run_ventricular_origin_all,
    unlabelled_entrants,
    unlabelled_records,
)
from .gopal import (
    AUGMENTATIONS,
    CONTRASTS,
    GOPAL_FINE_TUNING,
    GOPAL_SUBSETS,
    METHODS,
    augmentation_entrants,
    contrast_entrants,
    entrants,
    pretrained_encoder,
    pretraining_run,
    run_augmentation_grid,
    run_label_efficiency,
    run_simulated_to_real,
    run_subgroups,
    simulated_run,
)
from .mehari import (
    MEHARI,
    MEHARI_FINE_TUNING,
    MEHARI_FS,
    MEHARI_GRADUAL,
    MEHARI_HEAD_LR,
    MEHARI_OVER,
    MEHARI_OVERLAP,
    MEHARI_PAPER,
    MEHARI_REFERENCE,
    MEHARI_SECONDS,
    mehari,
    mehari_entrants,
    mehari_options,
    mehari_run,
    noise_training_entrants,
    noise_trainings,
    run_linear_evaluation,
    run_noise_robustness,
    run_noise_training,
)
from .oh import (
    OH,
    OH_ABLATION,
    OH_OVER,
    OH_PARTS,
    OH_SCALES,
    oh_ablation,
    oh_entrants,
    oh_run,
    oh_tested,
    oh_training,
    run_any_lead,
    run_any_lead_pretraining,
    run_identification,
    run_local_global_parts,
    run_segments,
)
from .ran import (
    RAN,
    RAN_ABLATION,
    RAN_BUDGETS,
    RAN_EIGHT,
    RAN_FINE_TUNING,
    RANDOM_EIGHT,
    ran_entrants,
    ran_run,
    run_spatio_temporal,
    run_spatio_temporal_parts,
    run_ventricular_origin,
)
from .random_width import RANDOM_WIDTH, random_width_entrants, run_random_width, s4_run

EXPERIMENTS = {
    "label-efficiency": run_label_efficiency,
    "label-efficiency-all": run_label_efficiency_all,
    "unlabelled": run_unlabelled,
    "health": run_health,
    "traits": run_traits,
    "augmentation-grid": run_augmentation_grid,
    "subgroups": run_subgroups,
    "simulated-to-real": run_simulated_to_real,
    "linear-evaluation": run_linear_evaluation,
    "linear-evaluation-all": functools.partial(
        run_linear_evaluation, task="all", head_lr=MEHARI_HEAD_LR
    ),
    "linear-evaluation-all-slow": functools.partial(run_linear_evaluation, task="all"),
    "noise-robustness": run_noise_robustness,
    "noise-training": run_noise_training,
    "any-lead": run_any_lead,
    "any-lead-pretraining": run_any_lead_pretraining,
    "identification": run_identification,
    "local-global-parts": run_local_global_parts,
    "segments-right": run_segments,
    "segments-leaky": functools.partial(run_segments, leaky=True),
    "spatio-temporal": run_spatio_temporal,
    "spatio-temporal-parts": run_spatio_temporal_parts,
    "all-methods": run_all_methods,
    "ventricular-origin": run_ventricular_origin,
    "ventricular-origin-all": run_ventricular_origin_all,
    "random-width": run_random_width,
    "attempts": run_attempts,
    "beyond": run_beyond,
}

_AT_THE_SCALES_RATE = (
    "label-efficiency", "simulated-to-real", "augmentation-grid", "subgroups", "any-lead",
    "any-lead-pretraining", "identification", "local-global-parts", "segments-right",
    "segments-leaky",
)  # fmt: skip


def rate_of(experiment):
    """The sampling rate (Hz) that an experiment asks of `open_for`; None for its scale's own."""
    return None if experiment in _AT_THE_SCALES_RATE else MEHARI_FS
