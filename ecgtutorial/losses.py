"""Contrastive losses, one formula each, as pure functions.

They compute in 32-bit floats whatever the precision around them: a similarity divided by a
temperature of 0.1 keeps too few digits in 16 bits.
"""

import functools

import torch
from torch.nn import functional as F


def in_full_precision(loss):
    """Run a loss outside autocast, with its first arguments as 32-bit floats."""

    @functools.wraps(loss)
    def wrapped(z, *args, **kwargs):
        with torch.autocast(z.device.type, enabled=False):
            return loss(z.float(), *args, **kwargs)

    return wrapped


@in_full_precision
def nt_xent(z, pair, temperature=0.5):
    """Normalised-temperature cross-entropy: pick your partner out of all others.

    `z`: embeddings (n, feature), normalised here; `pair`: (n,) integers, each value on exactly two
    rows, which are each other's positive. Every other row is a negative, and the positive stands
    in the denominator too. Returns the mean over the n anchors; n equal embeddings give
    log(n - 1). Raises ``ValueError`` if a row has no partner or several.
    Source: Chen et al. 2020, equation 1. Chapter: *3KG*.
    """
    same = pair[:, None] == pair[None, :]  # (n, n)
    same.fill_diagonal_(False)
    if not bool((same.sum(dim=1) == 1).all()):
        raise ValueError("pair: every value must stand on exactly two rows")
    z = F.normalize(z, dim=1)
    similarity = z @ z.T / temperature  # (n, n)
    similarity.fill_diagonal_(-torch.inf)  # nobody is its own negative
    return F.cross_entropy(similarity, same.int().argmax(dim=1))


@in_full_precision
def patient_contrastive(z, record, patient, temperature=0.1):
    """The contrastive loss of 3KG: many positives, and no negatives from the same patient.

    `z`: embeddings (n, feature), normalised here; `record`, `patient`: (n,) integers. Rows of one
    record are each other's positives; rows of another *patient* are negatives; rows of another
    record of the same patient are neither. For a positive pair (i, j)

        -log( exp(s_ij / t) / sum over negatives k of exp(s_ik / t) ),

    averaged over all ordered positive pairs. As printed in the paper the positive is *not* in the
    denominator, so the loss has no lower bound at zero. Raises ``ValueError`` where a row has no
    negative or no row has a positive.
    Source: paper D, section 3 (Gopal et al. 2021). Chapter: *3KG*.
    """
    z = F.normalize(z, dim=1) / temperature**0.5  # scaled here: n rows instead of n x n numbers
    similarity = z @ z.T  # (n, n), already over the temperature
    same_patient = patient[:, None] == patient[None, :]
    if bool(same_patient.all(dim=1).any()):
        raise ValueError("patient: all rows belong to one patient, so there are no negatives")
    negatives = similarity.masked_fill_(same_patient, -torch.inf).logsumexp(dim=1)  # (n,)

    # The sum of s_ij over the pairs of a record is |sum of its z|^2 less the |z|^2 of each: no
    # second n x n table.
    group = torch.unique(record, return_inverse=True)[1]
    size = torch.bincount(group)
    if not bool((size > 1).any()):
        raise ValueError("record: no two rows share a record, so there are no positives")
    total = z.new_zeros(len(size), z.shape[1]).index_add(0, group, z)
    attraction = total.square().sum() - z.square().sum()
    n_positive = size[group] - 1  # (n,)
    return ((n_positive * negatives).sum() - attraction) / n_positive.sum()
