"""Losses, one formula each, as pure functions.

They compute in 32-bit floats whatever the precision around them: a similarity divided by a
temperature of 0.1 keeps too few digits in 16 bits.
"""

import functools

import torch
from torch.nn import functional as F


def in_full_precision(loss):
    """Run a loss outside autocast, with every tensor of numbers as 32-bit floats."""

    def widen(value):
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.float() if floating else value

    @functools.wraps(loss)
    def wrapped(first, *args, **kwargs):
        with torch.autocast(first.device.type, enabled=False):
            kwargs = {name: widen(value) for name, value in kwargs.items()}
            return loss(widen(first), *map(widen, args), **kwargs)

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


# --- without negatives ------------------------------------------------------------------------


@in_full_precision
def byol_loss(prediction, target):
    """Squared distance of two unit vectors, 2 - 2 cos: from 0 (same direction) to 4 (opposite).

    `prediction`, `target`: (n, feature), normalised here. No gradient flows into `target`: it comes
    from a network that learns by averaging only. Returns the mean over the rows; BYOL adds the same
    with the views swapped. Source: Grill et al. 2020, equation 2. Chapter: *Instance
    discrimination*.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}: "
            "expected one shape (n, feature)"
        )
    return 2 - 2 * F.cosine_similarity(prediction, target.detach(), dim=1).mean()


@torch.no_grad()
@in_full_precision
def sinkhorn(scores, epsilon=0.05, n_iterations=3):
    """Share the rows of a batch equally among prototypes, close to what the scores ask for.

    `scores`: (n, prototype), similarity of each row to each prototype. Returns assignments
    (n, prototype): each row sums to 1, and each prototype gets about n / prototypes in total, the
    more exactly the more iterations. `epsilon`: entropy of the assignments; towards 0 they become
    hard. `n_iterations=0` leaves out the sharing: a plain softmax, with which SwAV collapses. Works
    with logarithms, so that scores / epsilon may be large. No gradient.
    Source: Caron et al. 2020, section 3.1. Chapter: *Instance discrimination*.
    """
    if epsilon <= 0 or n_iterations < 0:
        raise ValueError(f"epsilon {epsilon}, n_iterations {n_iterations}: expected > 0 and >= 0")
    log_q = scores / epsilon  # (n, prototype)
    for _ in range(n_iterations):
        log_q = log_q - log_q.logsumexp(dim=0, keepdim=True)  # prototypes share the rows equally
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)  # rows are assigned once
    return log_q.softmax(dim=1)


@in_full_precision
def swapped_prediction(scores, assignments, temperature=0.1):
    """Tell from one view to which prototypes the other view was assigned.

    `scores`: (view, n, prototype); `assignments`: (assigned view, n, prototype), of the first views
    in the same order. Cross-entropy of every assignment with the softmax of the scores of every
    *other* view, averaged over pairs of views and rows. No gradient flows into the assignments.
    Source: Caron et al. 2020, equations 1, 2 and 6. Chapter: *Instance discrimination*.
    """
    n_views, n_assigned = len(scores), len(assignments)
    if n_views < 2 or n_assigned > n_views or scores.shape[1:] != assignments.shape[1:]:
        raise ValueError(
            f"scores {tuple(scores.shape)} and assignments {tuple(assignments.shape)}: expected "
            "(view, n, prototype) with at least two views, and as many assignments or fewer"
        )
    log_p = F.log_softmax(scores / temperature, dim=2)
    # (assigned view, view): mean cross-entropy of each pair
    cross = -torch.einsum("ank,vnk->av", assignments.detach(), log_p) / scores.shape[1]
    other = ~torch.eye(n_assigned, n_views, dtype=torch.bool, device=scores.device)
    return cross[other].mean()


# --- prediction in time -----------------------------------------------------------------------


@in_full_precision
def ahead_logits(predictions, local, ahead=(12,), n_negatives=128, generator=None):
    """Scores of the true future moment (first) and of other moments of the same recording.

    `predictions`: (batch, step, token, feature), the guess at each of the first tokens for the
    moment ``ahead[step]`` tokens later; `local`: (batch, all tokens, feature). There must be as
    many predicted tokens as have a future: all tokens - max(ahead). Negatives are drawn evenly from
    the recording's other moments. One product scores every guess against every moment, and one
    gather picks: no loop over positions or steps. Returns (batch, step, token, 1 + n_negatives).
    Raises ``ValueError`` if the shapes do not fit or a recording is too short.
    Source: van den Oord et al. 2018, equation 4. Chapter: *Contrastive predictive coding*.
    """
    batch, n_steps, n_tokens, _ = predictions.shape
    n_all = local.shape[1]
    if len(ahead) != n_steps or min(ahead) < 1 or n_tokens != n_all - max(ahead) or n_tokens < 1:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} for {n_all} tokens and steps {tuple(ahead)}: "
            f"expected (batch, {len(ahead)}, {n_all} - {max(ahead)}, feature)"
        )
    device = local.device
    scores = predictions.flatten(1, 2) @ local.transpose(1, 2)  # (batch, step x token, all tokens)
    steps = torch.as_tensor(ahead, device=device)
    true = (steps[:, None] + torch.arange(n_tokens, device=device)).flatten()  # (step x token,)
    true = true[None, :, None].expand(batch, -1, 1)
    shape = (batch, n_steps * n_tokens, n_negatives)
    other = torch.randint(n_all - 1, shape, generator=generator, device=device)
    other += other >= true  # step over the true moment
    logits = scores.gather(2, torch.cat([true, other], dim=2))
    return logits.unflatten(1, (n_steps, n_tokens))


def info_nce_ahead(predictions, local, ahead=(12,), n_negatives=128, generator=None):
    """InfoNCE of contrastive predictive coding: pick the true future out of 1 + n_negatives.

    Mean over recordings, steps and tokens of -log softmax of the true moment's score; equal scores
    give log(1 + n_negatives). Arguments and errors as in `ahead_logits`.
    Source: van den Oord et al. 2018, equation 4; paper B. Chapter: *Contrastive predictive coding*.
    """
    logits = ahead_logits(predictions, local, ahead, n_negatives, generator)
    return -logits.log_softmax(dim=-1)[..., 0].mean()


# --- masked moments, and two segments of one recording -------------------------------------------


@in_full_precision
def masked_logits(context, quantized, masked, codes=None, n_negatives=100, temperature=0.1):
    """Scores of the true target of each masked token (first) and of other masked tokens' targets.

    `context`, `quantized`: (batch, token, feature), normalised here; `masked`: (batch, token) bool.
    Negatives are drawn evenly, with replacement, from the *other* masked tokens of the same
    recording. `codes`: (batch, token, group) integers; a negative with the very codes of the target
    cannot be told from it and scores -inf. One product compares every guess with every target, one
    gather picks: no loop over recordings or tokens. Returns (masked token, 1 + n_negatives), cosine
    over `temperature`. Raises ``ValueError`` where a recording has fewer than two masked tokens.
    Source: paper A, equation 1; Baevski et al. 2020, equation 3. Chapter: *Local and global*.
    """
    if context.shape != quantized.shape or masked.shape != context.shape[:2]:
        raise ValueError(
            f"context {tuple(context.shape)}, quantized {tuple(quantized.shape)} and masked "
            f"{tuple(masked.shape)}: expected (batch, token, feature) twice and (batch, token)"
        )
    count = masked.sum(dim=1)  # masked tokens of each recording: (batch,)
    if bool((count < 2).any()):
        raise ValueError("masked: a recording has fewer than two masked tokens, so no negatives")
    scores = F.normalize(context, dim=2) @ F.normalize(quantized, dim=2).transpose(1, 2)
    scores = scores / temperature  # (batch, token, token)
    if codes is not None:
        same = (codes[:, :, None] == codes[:, None, :]).all(dim=3)
        same.diagonal(dim1=1, dim2=2).fill_(False)
        scores = scores.masked_fill(same, -torch.inf)
    row, token = masked.nonzero(as_tuple=True)  # (masked token,), recording by recording
    position = masked.int().argsort(dim=1, descending=True, stable=True)  # masked tokens first
    rank = masked.cumsum(dim=1)[row, token] - 1  # which masked token of its recording this is
    draw = torch.rand(len(row), n_negatives, device=context.device)
    other = (draw * (count[row, None] - 1)).long()  # among all masked tokens but one
    other = other + (other >= rank[:, None])  # step over the token itself
    other = position[row[:, None], other]  # (masked token, n_negatives)
    return scores[row, token].gather(1, torch.cat([token[:, None], other], dim=1))


@in_full_precision
def code_diversity(usage):
    """How unevenly codes are used, from 0 (all alike) to nearly 1 (always the same one).

    `usage`: (group, code), mean probability of each code in a batch. With G groups of V codes it is
    (GV - sum of perplexities) / GV. Source: Baevski et al. 2020, equation 4, as paper A's code has
    it. Chapter: *Local and global*.
    """
    entropy = -(usage * (usage + 1e-7).log()).sum(dim=1)
    return 1 - entropy.exp().sum() / usage.numel()


@in_full_precision
def segment_contrast(first, second, temperature=0.1):
    """CMSC as paper A's code has it: find your recording's second half among all second halves.

    `first`, `second`: (n, feature), two neighbouring segments of n recordings, normalised here.
    Cross-entropy over the n x n table of cosines, in both directions. The paper's text has all 2n
    segments in every denominator instead, which is `nt_xent`. Equal embeddings give log(n).
    Source: paper A's code; Kiyasseh et al. 2021. Chapter: *Local and global*.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"first {tuple(first.shape)} and second {tuple(second.shape)}: expected one shape "
            "(n, feature)"
        )
    scores = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature  # (n, n)
    true = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(scores, true) + F.cross_entropy(scores.T, true)) / 2
