"""How much of paper C's pretext is arithmetic? Lead numbers and hidden samples by least squares.

    numbers = lead_numbers(shuffled, hidden)             # (batch, position), nothing learned
    filled, exact = least_squares_fill(signals, hidden)  # each record from itself alone
    table = shortcut_table(cohort.split()[1])

The six limb leads are combinations of two of them (`leads.EXPANSION`). So two that are visible give
the other four at that moment, and which positions they stand at follows without a label. The
precordial leads obey no law, but are nearly three-dimensional (the heart vector). Nothing here is
fitted to other records; the only constants are those laws and Dower's published matrix. Signals are
float (batch, lead, time) in mV, with the twelve leads or the eight independent ones; `hidden` is
bool of that shape, True where a sample must not be read. Explained in the chapter *Space and time*.
"""

import functools
import itertools

import numpy as np
import pandas as pd
import torch

from .. import augment
from ..leads import DOWER, EXPANSION, INDEPENDENT, LEADS, SUBSETS
from ..metrics import interval, patient_weights
from ..runs import COLUMNS, config_hash

MASKS = ("none", "independent", "common", "limb")
_BLOCK = 64  # records at a time: bounded memory


# --- lead numbers -----------------------------------------------------------------------------


def lead_numbers(signals, hidden=None):
    """Which lead stands at each position of records whose leads were shuffled, by least squares.

    `signals`: mV (batch, lead, time), 12 leads or the 8 of `leads.INDEPENDENT`; `hidden`: bool of
    that shape, or None. Returns int64 (batch, lead), numbers in `LEADS` or in `INDEPENDENT`, each
    number once. Two limb leads foretell the four others; every two positions are tried, and those
    that find the others best are taken. The order of the precordial leads, and of all eight where
    there is no law, is that whose slopes come nearest to three dimensions along Dower's axes (Dower
    1968), hidden samples filled in by `least_squares_fill`'s normal law first.
    Raises ``ValueError`` for other shapes. Chapter: *Space and time*.
    """
    signals, hidden = _checked(signals, hidden)
    blocks = zip(signals.split(_BLOCK), hidden.split(_BLOCK))
    return torch.cat([_numbers(part.double(), gone) for part, gone in blocks])


def _numbers(signals, hidden):
    batch, n_leads, _ = signals.shape
    order = torch.arange(n_leads).expand(batch, -1)  # position of each lead
    if n_leads == 12:
        order = _limb_first(signals, hidden)
    signals, hidden = _take(signals, order), _take(hidden, order)  # precordial leads still mixed
    filled = _fill(signals, hidden)[0].diff(dim=2)  # slopes: QRS counts, the drifting baseline less
    eight = filled[:, [0, 1, *range(6, 12)]] if n_leads == 12 else filled
    eight = eight - eight.mean(dim=2, keepdim=True)
    unit = eight / eight.norm(dim=2, keepdim=True).clamp(min=1e-9)  # a chest wall sets the size
    alike = unit @ unit.mT  # (batch, 8, 8)
    orders, near = _dower_orders(limb_known=n_leads == 12)
    best = orders[(alike.flatten(1) @ near.T).argmax(dim=1)]  # (batch, 8)
    if n_leads == 12:  # the first two stay, the last six follow
        best = torch.cat([torch.arange(6).expand(batch, -1), best[:, 2:] + 4], dim=1)
    return order.gather(1, best).argsort(dim=1)


def _limb_first(signals, hidden):
    """Positions of I ... aVF, then the six others in the order they stand: (batch, 12).

    Any two limb leads foretell the other four, and with samples hidden some pairs share too few
    moments with the rest; so each of the 15 is tried at all positions, and the best wins.
    """
    shown = (~hidden).double()
    signals = signals * shown
    both = shown[:, :, None] * shown[:, None]  # (batch, 12, 12, time)
    square = both @ (signals**2).mT[:, None]  # [i, j, k]: sum of x_k ** 2 where all three are shown
    product = (signals[:, :, None] * signals[:, None]) @ shown.mT[:, None]  # sum of x_i x_j, same
    limb = torch.zeros(len(signals), 6, dtype=torch.long)
    best = torch.full((len(signals),), -torch.inf, dtype=torch.double)
    for pair in itertools.combinations(range(6), 2):
        found, agreement = _foretell(pair, square, product)
        better = agreement > best
        limb[better], best[better] = found[better], agreement[better]
    other = torch.ones(len(limb), 12).scatter(1, limb, 0).nonzero()[:, 1].view(-1, 6)
    return torch.cat([limb, other], dim=1)


def _foretell(pair, square, product):
    """Positions of the six limb leads by what two of them say of the others, and how well it fits.

    `pair`: two limb leads; `square`, `product`: (batch, 12, 12, 12). A foretold lead p and a
    position x agree by 2 <p, x> / (<p, p> + <x, x>), which is 1 for equal ones only.
    Returns (batch, 6) and the sum of the four agreements (batch,) for the best of 132 places.
    """
    batch = len(square)
    i, j = torch.tensor(list(itertools.permutations(range(12), 2))).T  # (132,)
    free = torch.ones(batch, len(i), 12, dtype=torch.bool)  # (batch, place, position)
    free[:, torch.arange(len(i)), i] = free[:, torch.arange(len(i)), j] = False
    at, total = torch.empty(batch, len(i), 6, dtype=torch.long), 0
    at[:, :, pair[0]], at[:, :, pair[1]] = i, j
    for lead in set(range(6)) - set(pair):
        a, b = np.linalg.solve(EXPANSION[list(pair), :2].T, EXPANSION[lead, :2])
        size = (
            square + a**2 * square.permute(0, 3, 1, 2) + b**2 * square.permute(0, 1, 3, 2)
            + 2 * a * b * product
        )[:, i, j]  # fmt: skip
        common = (a * product.permute(0, 2, 3, 1) + b * product.permute(0, 3, 2, 1))[:, i, j]
        agree = 2 * common / size.clamp(min=1e-12)  # (batch, place, position); 0 for flat leads
        agree, at[:, :, lead] = agree.masked_fill(~free, -2).max(dim=2)
        free.scatter_(2, at[:, :, lead, None], False)
        total = total + agree
    agreement, best = total.max(dim=1)
    return at[torch.arange(batch), best], agreement


@functools.cache
def _dower_orders(limb_known):
    """Orders of eight leads, and for each the projection on Dower's three dimensions.

    Returns positions of I, II, V1 ... V6 (order, 8), and (order, 64): times the products of unit
    leads, it gives the share of them that a heart vector explains.
    """
    axes = DOWER / np.linalg.norm(DOWER, axis=1, keepdims=True)
    projection = torch.tensor(axes @ np.linalg.pinv(axes))
    orders = torch.tensor(list(itertools.permutations(range(2 if limb_known else 0, 8))))
    if limb_known:
        orders = torch.cat([torch.tensor([[0, 1]]).expand(len(orders), 2), orders], dim=1)
    lead = orders.argsort(dim=1)  # which lead a position would be
    return orders, projection[lead[:, :, None], lead[:, None]].flatten(1)


# --- hidden samples ---------------------------------------------------------------------------


def least_squares_fill(signals, hidden, iterations=10):
    """Hidden samples from the visible ones of the same record, leads in standard order.

    `signals`, `hidden`: (batch, lead, time), 12 leads or the 8 independent. A limb lead follows by
    arithmetic wherever two others are visible. All else is its conditional mean given what is
    visible at that moment, under a normal law with the record's own mean and covariance of leads,
    found by `iterations` of EM from unrelated leads (Dempster et al. 1977). Returns the filled
    signals, of the dtype given, and bool (batch, lead, time): hidden and solved by arithmetic.
    Raises ``ValueError`` for other shapes. Chapter: *Space and time*.
    """
    signals, hidden = _checked(signals, hidden)
    blocks = zip(signals.split(_BLOCK), hidden.split(_BLOCK))
    parts = [_fill(part.double(), gone, iterations) for part, gone in blocks]
    filled, exact = (torch.cat(part) for part in zip(*parts))
    return torch.where(hidden, filled.to(signals.dtype), signals), exact


def _fill(signals, hidden, iterations=10):
    signals = signals.masked_fill(hidden, 0)
    if not hidden.any():
        return signals, hidden
    signals, exact = _by_law(signals, hidden)
    return _by_covariance(signals, hidden & ~exact, iterations), exact


def _by_law(signals, hidden):
    """Leads I and II from all visible limb leads by least squares, and from these the others."""
    n_limb = len(_rows("limb", signals.shape[1]))
    law = torch.tensor(EXPANSION[:n_limb, :2])  # (limb lead, 2)
    shown = (~hidden[:, :n_limb]).double()
    enough = shown.sum(dim=1) >= 2  # (batch, time): no two limb leads are parallel
    normal = torch.einsum("ki,kj,bkt->btij", law, law, shown)  # (batch, time, 2, 2)
    normal = torch.where(enough[..., None, None], normal, torch.eye(2, dtype=torch.double))
    two = torch.linalg.solve(normal, signals[:, :n_limb].mT @ law)  # (batch, time, 2)
    exact = torch.zeros_like(hidden)
    exact[:, :n_limb] = hidden[:, :n_limb] & enough[:, None]
    solved = torch.zeros_like(signals)
    solved[:, :n_limb] = law @ two.mT
    return torch.where(exact, solved, signals), exact


def _by_covariance(signals, hidden, iterations):
    """EM for one normal law per record; moments with the same leads visible share a matrix."""
    batch, n_leads, time = signals.shape
    shown = ~hidden
    code = (shown * 2 ** torch.arange(n_leads)[:, None]).sum(dim=1)  # (batch, time)
    code, pattern = (code + 2**n_leads * torch.arange(batch)[:, None]).unique(return_inverse=True)
    record = code >> n_leads  # (pattern,)
    seen = ((code[:, None] >> torch.arange(n_leads)) & 1).double()  # (pattern, lead)
    moments = torch.bincount(pattern.flatten()).double()
    n_shown = shown.sum(dim=2, keepdim=True).clamp(min=1)
    mean = signals.sum(dim=2, keepdim=True) / n_shown  # hidden samples are 0
    covariance = torch.diag_embed((((signals - mean) * shown) ** 2).sum(dim=2) / n_shown[..., 0])
    one = torch.eye(n_leads, dtype=torch.double)
    for _ in range(iterations):
        # A thousandth of the mean variance: the limb leads' covariance has no inverse without it.
        size = covariance.diagonal(dim1=1, dim2=2).mean(dim=1) * 1e-3 + 1e-9  # mV²
        prior = (covariance + size[:, None, None] * one)[record]  # (pattern, lead, lead)
        among = seen[:, :, None] * seen[:, None]
        inverse = torch.linalg.inv(prior * among + torch.diag_embed(1 - seen)) * among
        regression = prior @ inverse
        centred = (signals - mean).mT.reshape(-1, n_leads, 1)
        guess = (regression[pattern.flatten()] @ centred).view(batch, time, n_leads).mT
        signals = torch.where(hidden, mean + guess, signals)
        unsure = moments[:, None, None] * (prior - regression @ prior)
        unsure *= (1 - seen)[:, :, None] * (1 - seen)[:, None]
        mean = signals.mean(dim=2, keepdim=True)
        covariance = (signals - mean) @ (signals - mean).mT
        covariance = covariance.index_add(0, record, unsure) / time  # (batch, lead, lead)
    return signals


def interpolate(signals, hidden):
    """Hidden samples on a straight line between visible ones of the same lead.

    `signals`, `hidden`: (batch, lead, time). Beyond the outermost visible sample its value stays; a
    lead that is hidden whole is 0. Returns the filled signals. Chapter: *Space and time*.
    """
    signals, hidden = _checked(signals, hidden)
    time, now = signals.shape[2], torch.arange(signals.shape[2])
    before = torch.where(hidden, -1, now).cummax(dim=2).values
    after = torch.where(hidden, time, now).flip(2).cummin(dim=2).values.flip(2)
    before, after = (
        torch.where(before < 0, after, before),
        torch.where(after == time, before, after),
    )
    share = (now - before).to(signals.dtype) / (after - before).clamp(min=1)
    before, after = before.clamp(max=time - 1), after.clamp(min=0)  # where all is hidden
    left, right = (signals.masked_fill(hidden, 0).gather(2, at) for at in (before, after))
    return torch.where(hidden, torch.lerp(left, right, share), signals)


def reconstruction(signals, filled, hidden):
    """Share of the variance of the hidden samples that a reconstruction explains.

    `signals`, `filled`, `hidden`: (batch, lead, time). One minus squared error over squared
    distance from the lead's mean in the record, both summed over hidden samples and records.
    Returns a dict: ``all``, ``limb``, ``precordial`` -> float, NaN where nothing is hidden.
    Chapter: *Space and time*.
    """
    signals, hidden = _checked(signals, hidden)
    found = {}
    for group, (error, variance) in _squares(signals, filled, hidden).items():
        found[group] = float(_ratio(np.ones((1, len(error))), error, variance, 1)[0])
    return found


def _squares(signals, filled, hidden):
    """Squared error and squared distance from the mean of each record: group -> two (batch,)."""
    signals, hidden = signals.double(), hidden.double()
    error = ((filled - signals) ** 2 * hidden).sum(dim=2).numpy()  # (batch, lead)
    variance = ((signals - signals.mean(dim=2, keepdim=True)) ** 2 * hidden).sum(dim=2).numpy()
    rows = {group: _rows(group, signals.shape[1]) for group in ("all", "limb", "precordial")}
    return {group: (error[:, r].sum(1), variance[:, r].sum(1)) for group, r in rows.items()}


# --- the table --------------------------------------------------------------------------------


def shortcut_table(cohort, seconds=2.5, ratio=0.4, masks=MASKS, seed=0):
    """What least squares solves of the pretext on the records of `cohort`, each by itself.

    The middle `seconds` of each record, with a share `ratio` hidden by `augment.hidden_spans` in
    each of `masks`; ``"none"`` hides nothing. Rows, 95 % intervals over patients: column ``task``
    is the mask, ``leads`` 12 or the 8 independent, ``protocol`` the group ``all``, ``limb`` or
    ``precordial``, ``metric`` one of ``solvable`` (share of the hidden samples that arithmetic
    solves), ``explained`` (as in `reconstruction`; methods ``least squares``, ``interpolation``,
    ``zeros``) and ``lead_number`` (share of positions named rightly after a shuffle of all leads).
    Returns a data frame with `runs.COLUMNS`. Raises ``ValueError`` for a cohort without the twelve
    leads, unknown masks, and as `augment.hidden_spans` does. Chapter: *Space and time*.
    """
    if tuple(cohort.leads) != LEADS:
        raise ValueError(f"cohort {cohort.name!r} has leads {cohort.leads}: expected {LEADS}")
    if not set(masks) <= set(MASKS):
        raise ValueError(f"masks holds {sorted(set(masks) - set(MASKS))}: expected some of {MASKS}")
    length = round(seconds * cohort.fs)
    spare = cohort.signals.shape[2] - length
    if spare < 0 or length < 2:
        raise ValueError(f"seconds is {seconds}: records have {spare + length} samples")
    weights = patient_weights(cohort.table["patient_id"])  # (resample, record)
    shared = {
        "seed": "all", "n_records": len(cohort), "n_patients": cohort.table["patient_id"].nunique(),
        "config": config_hash({"cohort": cohort.fingerprint, "seconds": seconds, "ratio": ratio,
                               "seed": seed}),
    }  # fmt: skip
    generator, rows = torch.Generator().manual_seed(seed), []
    window = slice(spare // 2, spare // 2 + length)
    signals = torch.from_numpy(cohort.signals[:, :, window] * np.float32(1e-3))
    for mask in masks:
        hidden = torch.zeros(signals.shape, dtype=torch.bool)
        if mask != "none":
            hidden = augment.hidden_spans(
                signals.shape, cohort.fs, ratio, leads=mask, generator=generator
            )
        for names in (LEADS, INDEPENDENT):
            kept = [LEADS.index(name) for name in names]
            answers = _answers(signals[:, kept], hidden[:, kept], generator)
            for (method, metric, group), (part, whole, less) in answers.items():
                one = float(_ratio(np.ones((1, len(part))), part, whole, less)[0])
                low, high = interval(_ratio(weights, part, whole, less))
                row = {"method": method, "task": mask, "leads": len(names), "metric": metric}
                rows.append(
                    row | shared | {"protocol": group, "value": one, "low": low, "high": high}
                )
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def _answers(signals, hidden, generator):
    """(method, metric, group) -> per record a part (batch,), its whole, and what less it counts."""
    batch, n_leads, _ = signals.shape
    groups = {group: _rows(group, n_leads) for group in ("all", "limb", "precordial")}
    numbers = torch.rand(batch, n_leads, generator=generator).argsort(dim=1)
    right = lead_numbers(_take(signals, numbers), _take(hidden, numbers)) == numbers
    right = right.gather(1, numbers.argsort(dim=1)).double().numpy()  # (batch, lead)
    answers = {
        ("least squares", "lead_number", group): (right[:, r].sum(1), np.full(batch, len(r)), 0)
        for group, r in groups.items()
    }
    if not hidden.any():
        return answers
    filled, exact = least_squares_fill(signals, hidden)
    solved, asked = (mask.sum(dim=2).double().numpy() for mask in (exact, hidden))
    for group, r in groups.items():
        name = "least squares", "solvable", group
        answers[name] = (solved[:, r].sum(1), asked[:, r].sum(1), 0)
    for method, made in (
        ("least squares", filled),
        ("interpolation", interpolate(signals, hidden)),
        ("zeros", signals.masked_fill(hidden, 0)),
    ):
        for group, (error, variance) in _squares(signals, made, hidden).items():
            answers[method, "explained", group] = (error, variance, 1)
    return answers


def _ratio(weights, part, whole, less):
    """Part over whole, or `less` minus that, for weightings of the records: (resample,)."""
    part, whole = weights @ part, weights @ whole
    share = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return less - share if less else share


# --- small helpers ----------------------------------------------------------------------------


def _checked(signals, hidden):
    """Signals and a mask of their shape (none: nothing hidden), or ``ValueError``."""
    if signals.ndim != 3 or signals.shape[1] not in (12, 8) or not signals.is_floating_point():
        raise ValueError(
            f"signals is {signals.dtype} {tuple(signals.shape)}: expected float (batch, 12, time) "
            "in mV, or the 8 independent leads"
        )
    hidden = torch.zeros(signals.shape, dtype=torch.bool) if hidden is None else hidden
    if hidden.shape != signals.shape or hidden.dtype != torch.bool:
        raise ValueError(
            f"hidden is {hidden.dtype} {tuple(hidden.shape)}: expected bool {tuple(signals.shape)}"
        )
    return signals, hidden


def _rows(group, n_leads):
    """Rows of a group of leads among the 12, or among the 8 independent ones."""
    names = LEADS if n_leads == 12 else INDEPENDENT
    return [k for k, name in enumerate(names) if group in ("all", _group(name))]


def _group(name):
    return "limb" if name in SUBSETS[6] else "precordial"


def _take(values, order):
    """Rows in another order: values (batch, lead, time), order (batch, lead)."""
    return values[torch.arange(len(values))[:, None], order]
