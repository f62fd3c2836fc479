"""Patient identification: is this recording from a patient we have seen before?

    training, pairs = split(cohort)                           # nobody is in both
    trained = train_identity(encoder, training, seconds=2.5)
    similarity = identify(trained, cohort, pairs["gallery"], pairs["probe"], seconds=2.5)
    top_k(similarity).mean(), equal_error_rate(similarity)

Every tested patient has one recording in the gallery and another one, the probe, that is matched to
the gallery by cosine. Explained in the chapter *Patient identification*.
"""

import copy
import math
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from .. import grid, leads
from ..augment import crop
from ..leads import SUBSETS
from ..metrics import patient_weights
from ..pretrain import _rate, has_bfloat16
from ..runs import Table, config_hash
from .any_lead import _cell, padded, segments, summarise
from .leakage import beats_of
from .windows import embed

PROTOCOLS = ("untrained", "fine-tuned")

# --- who is tested ----------------------------------------------------------------------------


def split(cohort, seed=0):
    """The recordings to train on, and the pairs to test: no patient is in both.

    Tested is every patient with two or more recordings, whatever the fold; trained on are all other
    patients of folds 1-8. `seed`: which two of a patient's recordings are drawn, and which of them
    is the probe. Returns a `Cohort` and a DataFrame with a row a tested patient: ``patient_id`` and
    ``gallery`` and ``probe``, positions in `cohort`. An encoder that is to know nothing of the
    tested patients must be pre-trained on that cohort too.
    Raises ``ValueError`` without the columns ``patient_id`` and ``fold``, where fewer than two
    patients have two recordings, and where nobody is left to train on.
    Source: paper A (Oh et al. 2022). Chapter: *Patient identification*.
    """
    patients = _patients(cohort)
    n_recordings = cohort.table.groupby("patient_id")["record_id"].nunique()  # not pieces of one
    several = patients.isin(n_recordings.index[n_recordings > 1])
    if patients[several].nunique() < 2:
        raise ValueError(
            f"cohort {cohort.name!r}: {patients[several].nunique()} of {patients.nunique()} "
            "patients have two recordings or more, expected at least 2 to tell apart"
        )
    trained = ~several & (cohort.table["fold"] <= 8)
    if not trained.any():
        raise ValueError(
            f"cohort {cohort.name!r}: no patient of folds 1-8 has one recording only, so there is "
            "nobody to train on who is not tested"
        )
    return cohort.select(trained.to_numpy()), _pairs(cohort.table[several], seed)


def split_segments(cohort, seconds, seed=0):
    """The WRONG split, to show what it is worth: a pair is two segments of one recording.

    As in paper A's training and validation data a recording is an identity: it is cut into
    `segments` of `seconds`, gallery and probe are two of them, and what is left of it is trained
    on. Electrodes, heart rate and day are the same on both sides, and the network has seen them.
    The tested recordings are the gallery of `split`: both settings have as many to choose from.
    Returns the segments as a `Cohort`, those to train on, and the pairs as in `split`, positions
    among the segments. Raises ``ValueError`` as `split` does, and where a recording does not hold
    two segments. Source: paper A and its code. Chapter: *Patient identification*.
    """
    right, pairs = split(cohort, seed)
    longest = cohort.signals.shape[2] / cohort.fs / 2
    if seconds > longest:
        raise ValueError(f"seconds is {seconds}: expected at most half a recording, {longest} s")
    tested = cohort.table["record_id"].iloc[pairs["gallery"]]
    known = cohort.table["record_id"].isin([*right.table["record_id"], *tested])
    whole = cohort.select(known.to_numpy())
    cut = segments(whole, seconds)
    recording = whole.table["record_id"].repeat(len(cut) // len(whole)).to_numpy()
    cut.table["patient_id"] = recording  # the flaw: a recording counts as somebody
    pairs = _pairs(cut.table[np.isin(recording, tested)], seed)
    trained = np.ones(len(cut), bool)
    trained[pairs[["gallery", "probe"]]] = False
    return cut, cut.select(trained), pairs


def _patients(cohort):
    missing = {"patient_id", "fold"} - set(cohort.table)
    if missing:
        raise ValueError(
            f"cohort {cohort.name!r}: identification needs the columns 'patient_id' and 'fold', "
            f"found {', '.join(cohort.table.columns)}"
        )
    patients = cohort.table["patient_id"]
    if patients.isna().any():
        raise ValueError(
            f"cohort {cohort.name!r}: {patients.isna().sum()} of {len(patients)} recordings have "
            "no patient_id, expected one for each: leave the others out"
        )
    return patients


def _pairs(table, seed):
    """Two recordings of each patient at random; `table`: theirs, with the rows as its index."""
    shuffled = table.sample(frac=1, random_state=np.random.default_rng(seed))
    shuffled = shuffled.drop_duplicates(["patient_id", "record_id"])
    patients = shuffled["patient_id"]
    number = patients.groupby(patients).cumcount()
    gallery, probe = (
        pd.Series(patients.index[number == n], index=patients[number == n]) for n in (0, 1)
    )
    return pd.DataFrame({"gallery": gallery, "probe": probe}).reset_index(names="patient_id")


# --- training ---------------------------------------------------------------------------------


class ArcFace(nn.Module):
    """Cross-entropy over identities that asks for an angle to spare: additive angular margin.

    `width`: of the embeddings. `n_identities`: each has a centre. `scale`: s, `margin`: m, radians.
    With theta the angle between an embedding and a centre, the logit of the true identity is
    s cos(theta + m) and that of another one s cos(theta). Where theta + m passes pi the cosine
    would turn up again; there the true logit is s (cos(theta) - 1 + cos(m)), which goes on falling
    from where it was (our choice). Raises ``ValueError`` for a scale of 0 or below or a margin
    outside [0, pi). Source: Deng et al. 2019, eq. 3; scale and margin are paper A's.
    Chapter: *Patient identification*.
    """

    def __init__(self, width, n_identities, scale=192.0, margin=1.0):
        super().__init__()
        if not (scale > 0 and 0 <= margin < math.pi):
            raise ValueError(
                f"scale is {scale}, margin {margin}: expected above 0, and in [0, pi) radians"
            )
        self.scale, self.margin = scale, margin
        self.centres = nn.Parameter(torch.randn(n_identities, width) / math.sqrt(width))

    def logits(self, embeddings, identities):
        """Scaled cosines with the margin: (batch, width), (batch,) -> (batch, identity)."""
        cosine = F.linear(F.normalize(embeddings), F.normalize(self.centres))  # (batch, identity)
        true = cosine.gather(1, identities[:, None])  # (batch, 1)
        sine = (1 - true.square()).clamp(min=1e-6).sqrt()  # its slope stays finite at cos = +-1
        with_margin = true * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = true < -math.cos(self.margin)  # theta + m > pi
        with_margin = torch.where(beyond, true - 1 + math.cos(self.margin), with_margin)
        return self.scale * cosine.scatter(1, identities[:, None], with_margin)

    def forward(self, embeddings, identities):
        """Mean cross-entropy: embeddings (batch, width), identities (batch,) whole numbers."""
        return F.cross_entropy(self.logits(embeddings, identities), identities)


def train_identity(
    encoder, cohort, *, seconds, steps=300, batch_size=64, lr=3e-3, weight_decay=0.05, scale=192.0,
    margin=1.0, seed=0, device="cpu",
):  # fmt: skip
    """Train a copy of `encoder` to tell the patients of `cohort` apart, in random crops.

    `seconds`: length of the crops; all crops of all recordings of a patient are one identity.
    `lr`: follows a cosine after a tenth of the steps of warm-up. `scale`, `margin`: of `ArcFace`,
    whose centres are thrown away at the end; paper A's values are hard on a small network and a
    short training, where gentler ones such as 30 and 0.5 are worth a try. AdamW. Returns
    the encoder alone, for `identify`. Raises ``ValueError`` for fewer than two patients and for
    crops longer than a recording. Source: paper A. Chapter: *Patient identification*.
    """
    _, identities = np.unique(cohort.table["patient_id"].astype(str), return_inverse=True)
    identities = torch.from_numpy(identities)  # (record,)
    n_identities = int(identities.max()) + 1
    if n_identities < 2:
        raise ValueError(f"cohort {cohort.name!r} has one patient: expected at least 2")
    length = round(seconds * cohort.fs)
    if length > cohort.signals.shape[2]:
        raise ValueError(f"crops of {length} samples do not fit {cohort.signals.shape[2]}")
    signals = torch.from_numpy(np.array(cohort.signals))
    generator = torch.Generator().manual_seed(seed)
    kind = torch.device(device).type
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = copy.deepcopy(encoder).to(device).train().requires_grad_(True)
        head = ArcFace(encoder.width, n_identities, scale, margin).to(device)
        both = [*encoder.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(both, weight_decay=weight_decay)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * _rate(step, steps, 0.1, "cosine")
            rows = torch.randint(len(cohort), (batch_size,), generator=generator)
            starts = torch.randint(
                signals.shape[2] - length + 1, (batch_size,), generator=generator
            )
            batch = crop(signals, rows, starts, length).to(device)
            with torch.autocast(kind, torch.bfloat16, enabled=has_bfloat16(kind)):
                embeddings = encoder(batch)  # (batch, width)
            loss = head(embeddings.float(), identities[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return encoder.eval()


# --- matching ---------------------------------------------------------------------------------


def identify(encoder, cohort, gallery, probe, *, seconds):
    """Cosine between every probe and every recording of the gallery: float64 (probe, gallery).

    `gallery`, `probe`: positions in `cohort`. An embedding is the encoder's output averaged over
    windows of `seconds`, not the logits of a head. Source: paper A.
    Chapter: *Patient identification*.
    """
    rows = np.concatenate([gallery, probe])
    embeddings = F.normalize(embed(encoder, cohort.select(rows), seconds).double())
    similarity = embeddings[len(gallery) :] @ embeddings[: len(gallery)].T  # (probe, gallery)
    return similarity.numpy().round(9)  # equal embeddings tie: no hits by rounding errors


class MedianBeat(nn.Module):
    """No learning at all: the median beat of each window, around its own mean.

    An "encoder" to beat: signals (batch, lead, time) in mV at `fs` Hz -> (batch, feature). The
    cosine of two of its vectors is their correlation. Chapter: *Patient identification*.
    """

    def __init__(self, fs):
        super().__init__()
        self.fs, self.width = fs, len(leads.INDEPENDENT) * (round(0.24 * fs) + round(0.4 * fs))

    def forward(self, signals):  # (batch, lead, time) in mV -> (batch, feature)
        beats = torch.from_numpy(beats_of(signals.cpu().numpy(), self.fs)).float()
        return beats - beats.mean(dim=1, keepdim=True)  # a cosine is a correlation now


def top_k(similarity, k=1):
    """Whether each probe's own patient is among the `k` most similar of the gallery: (probe,) bool.

    `similarity`: (patient, patient), row i a probe and column i the same patient in the gallery.
    Others that are just as similar come first: a network that finds everybody alike gets no hit.
    Raises ``ValueError`` for a matrix that is not square and finite, and for `k` below 1.
    Chapter: *Patient identification*.
    """
    similarity = _checked(similarity)
    if k < 1:
        raise ValueError(f"k is {k}: expected 1 or more")
    as_similar = similarity >= np.diag(similarity)[:, None]  # the true one among them
    return as_similar.sum(axis=1) <= k


def equal_error_rate(similarity, counts=None):
    """The error rate at the threshold where as many impostors pass as genuine pairs are refused.

    `similarity`: (patient, patient), genuine pairs on the diagonal, impostors off it. Between two
    thresholds both rates are interpolated; pairs of one similarity pass together. `counts`:
    (resample, patient), how often each patient is drawn; copies of a patient are not impostors.
    Returns a float, or with `counts` (resample,), NaN where one patient alone was drawn.
    Raises ``ValueError`` for a matrix that is not square and finite.
    Chapter: *Patient identification*.
    """
    similarity = _checked(similarity)
    genuine = np.diag(similarity)
    levels = np.unique(genuine)
    # Where a pair lies between the genuine levels: 2k + 1 on level k, 2k just below it. Impostors
    # between two levels change one rate only, so their order does not matter.
    place = np.searchsorted(levels, similarity, "left") + np.searchsorted(
        levels, similarity, "right"
    )  # (patient, patient)
    if counts is None:
        return float(_equal_error_rate(place, np.ones(len(place))))
    counts = np.asarray(counts, float)
    if counts.ndim != 2 or counts.shape[1] != len(place):
        raise ValueError(f"counts has shape {counts.shape}: expected (resample, {len(place)})")
    return np.array([_equal_error_rate(place, weight) for weight in counts])


def _equal_error_rate(place, weight):
    """The rate for pairs at `place` (patient, patient), patients counted `weight` times."""
    n_places = place.max() + 1
    impostor = np.outer(weight, weight)
    np.fill_diagonal(impostor, 0)
    passed = np.bincount(place.ravel(), impostor.ravel(), n_places)[::-1].cumsum()
    found = np.bincount(np.diag(place), weight, n_places)[::-1].cumsum()
    if not passed[-1]:
        return np.nan
    accepted = np.r_[0, passed / passed[-1]]  # false acceptance, threshold from high to low
    refused = 1 - np.r_[0, found / found[-1]]  # false refusal
    gap = accepted - refused  # rises from -1 to 1
    after = np.argmax(gap >= 0)
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return accepted[after - 1] + share * (accepted[after] - accepted[after - 1])


def _checked(similarity):
    similarity = np.asarray(similarity, float)
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or len(similarity) < 2:
        raise ValueError(
            f"similarity has shape {similarity.shape}: expected (patient, patient), two or more"
        )
    if not np.isfinite(similarity).all():
        bad = int((~np.isfinite(similarity)).any(axis=1).sum())
        raise ValueError(f"similarity: {bad} of {len(similarity)} probes hold NaN or infinity")
    return similarity


# --- the experiment ---------------------------------------------------------------------------


def identification(
    entrants, cohort, table, *, seconds, lead_sets=(12, 6, 3, 2, 1), training=None,
    by_segment=False, n_resamples=200, progress=True, reference=("random", "fine-tuned"), over=None,
):  # fmt: skip
    """Fill `table` with how well every entrant recognises patients, and summarise it.

    An entrant's protocols are of `PROTOCOLS`: ``"untrained"`` matches its embeddings as they come,
    ``"fine-tuned"`` trains it with `train_identity` first, on recordings with the same missing
    leads; `training`: arguments of that, an entrant's `fine_tuning` those in which it differs.
    `lead_sets`: sizes in `leads.SUBSETS` that recordings are `padded` to. `by_segment`: the wrong
    setting of `split_segments`, a task of its own. `reference`, `over`: as in `any_lead`, whose
    `summarise` is used. A cell, one entrant, protocol and lead set, is stored when finished and not
    computed again; it has the metrics ``top1``, ``top5`` and ``equal_error_rate`` with their
    bootstrap over `n_resamples` draws of tested patients. Resampled probes are matched to the whole
    gallery: one with fewer patients would make it easier. ``n_patients`` is the number of pairs:
    chance is one in it. Returns the table as a data frame. Raises ``ValueError`` as `split` does,
    and for a protocol or lead set that does not exist. Source: paper A (Oh et al. 2022), table 1.
    Chapter: *Patient identification*.
    """
    table = table if isinstance(table, Table) else Table(table)
    strange = [size for size in lead_sets if size not in SUBSETS]
    if strange:
        raise ValueError(f"lead_sets holds {strange}: expected sizes among {list(SUBSETS)}")
    settings = {
        "cohort": cohort.fingerprint, "seconds": seconds, "n_resamples": n_resamples,
        "task": "identification by segment" if by_segment else "identification",
        "training": dict(training or {}),
    }  # fmt: skip
    if by_segment:
        recordings, trained, pairs = split_segments(cohort, seconds)
    else:
        recordings, (trained, pairs) = cohort, split(cohort)
    tested = recordings.select(pairs[["gallery", "probe"]].to_numpy().T.ravel())
    jobs = [
        grid.Job(
            {_cell_hash(settings, entrant, protocol, size):
             f"{entrant.method} {protocol} {size} leads"}, entrant,
            partial(_compute, entrant, protocol, size, trained, tested, settings),
        )
        for entrant in entrants
        for protocol in entrant.protocols
        for size in lead_sets
    ]  # fmt: skip
    names = grid.fill(table, jobs, progress)
    table.replace_summary(summarise(table, names, reference, over))
    return table.read()


def _cell_hash(settings, entrant, protocol, size):
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"entrant {entrant.method!r} has protocol {protocol!r}: expected some of {PROTOCOLS}"
        )
    names = {"encoder": entrant.identity, "method": entrant.method, "seed": entrant.seed}
    names |= {"protocol": protocol, "leads": size}
    if protocol == "untrained":
        settings = {k: v for k, v in settings.items() if k != "training"}
    else:
        settings = settings | {"training": {**settings["training"], **entrant.fine_tuning}}
    return config_hash({**settings, **names})


def _compute(entrant, protocol, size, trained, tested, settings, names):
    """Compute one cell: its rows and their resamples.

    `tested`: the gallery, and behind it the probes in the same order of patients.
    """
    encoder, seconds = grid.encoder(entrant, settings["cohort"]), settings["seconds"]
    gallery, probe = np.arange(len(tested)).reshape(2, -1)
    counts = patient_weights(gallery, settings["n_resamples"])  # (resample, patient)
    if protocol == "fine-tuned":
        options = {"seed": entrant.seed, **settings["training"], **entrant.fine_tuning}
        encoder = train_identity(encoder, padded(trained, size), seconds=seconds, **options)
    similarity = identify(encoder, padded(tested, size), gallery, probe, seconds=seconds)
    row = {
        "method": entrant.method, "task": settings["task"], "leads": size,
        "seed": str(entrant.seed), "n_records": len(tested), "n_patients": len(gallery),
        "protocol": protocol, "subset": 0, "config": names[0],
    }  # fmt: skip
    yield _cell(row, _scores(similarity, counts))


def _scores(similarity, counts):
    """{metric: (value, its bootstrap (resample,))}; `counts` (resample, patient)."""
    scores = {}
    for k in (1, 5):
        hits = top_k(similarity, k)
        scores[f"top{k}"] = hits.mean(), counts @ hits / counts.sum(axis=1)
    scores["equal_error_rate"] = equal_error_rate(similarity), equal_error_rate(similarity, counts)
    return scores
