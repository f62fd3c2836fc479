"""Typical wrong answers to assignment 5: {what is wrong: {grade_id: source, "points": {...}}}.

``points`` names the test cells that lose marks and what they still earn; all others earn theirs.
"""

WRONG = {
    "p taken for the share that stays visible": {
        "mask-leads": """
def mask_leads(signals, p, generator=None):
    visible = torch.rand(signals.shape[:2], generator=generator) < p
    return signals * visible[..., None], visible
""",
        "points": {"mask-leads-check": 0, "mask-leads-hidden": 0},
    },
    "the same leads hidden in the whole batch": {
        "mask-leads": """
def mask_leads(signals, p, generator=None):
    visible = torch.rand(1, signals.shape[1], generator=generator) >= p
    visible = visible.expand(len(signals), -1)
    return signals * visible[..., None], visible
""",
        "points": {"mask-leads-check": 0, "mask-leads-hidden": 0},
    },
    "the input written to": {
        "mask-leads": """
def mask_leads(signals, p, generator=None):
    visible = torch.rand(signals.shape[:2], generator=generator) >= p
    signals[~visible] = 0
    return signals, visible
""",
        # the self-check's own batch is written to as well, and still looks right
        "points": {"mask-leads-hidden": 0},
    },
    "tokens hidden one by one, no spans": {
        "span-mask": """
def hidden_share(p, span):
    return 1 - (1 - p) ** span


def span_mask(n, n_tokens, p=0.065, span=10, generator=None):
    return torch.rand(n, n_tokens, generator=generator) < hidden_share(p, span)
""",
        "points": {"span-mask-hidden": 0},
    },
    "no span begins before the record": {
        "span-mask": """
def hidden_share(p, span):
    return 1 - (1 - p) ** span


def span_mask(n, n_tokens, p=0.065, span=10, generator=None):
    begins = torch.rand(n, n_tokens, generator=generator) < p
    begins = F.pad(begins, (span - 1, 0))
    return begins.unfold(1, span, 1).any(dim=2)
""",
        "points": {"span-mask-hidden": 0},
    },
    "overlaps counted twice": {
        "span-mask": """
def hidden_share(p, span):
    return p * span


def span_mask(n, n_tokens, p=0.065, span=10, generator=None):
    begins = torch.rand(n, n_tokens + span - 1, generator=generator) < p
    return begins.unfold(1, span, 1).any(dim=2)
""",
        "points": {"span-mask-check": 0, "span-mask-hidden": 0},
    },
    "multiplied by the temperature": {
        "info-nce": """
def info_nce(guess, target, hidden, temperature=0.1):
    scores = F.normalize(guess, dim=2) @ F.normalize(target, dim=2).transpose(1, 2) * temperature
    scores = scores.masked_fill(~hidden[:, None, :], -torch.inf)
    return -scores.log_softmax(dim=2).diagonal(dim1=1, dim2=2)[hidden].mean()
""",
        "points": {"info-nce-check": 0, "info-nce-hidden": 0},
    },
    "a dot product in place of the cosine": {
        "info-nce": """
def info_nce(guess, target, hidden, temperature=0.1):
    scores = guess @ target.transpose(1, 2) / temperature
    scores = scores.masked_fill(~hidden[:, None, :], -torch.inf)
    return -scores.log_softmax(dim=2).diagonal(dim1=1, dim2=2)[hidden].mean()
""",
        "points": {"info-nce-hidden": 0},
    },
    "visible tokens among the candidates": {
        "info-nce": """
def info_nce(guess, target, hidden, temperature=0.1):
    scores = F.normalize(guess, dim=2) @ F.normalize(target, dim=2).transpose(1, 2) / temperature
    return -scores.log_softmax(dim=2).diagonal(dim1=1, dim2=2)[hidden].mean()
""",
        "points": {"candidates-hidden": 0},
    },
    "candidates from the whole batch": {
        "info-nce": """
def info_nce(guess, target, hidden, temperature=0.1):
    guess, target = F.normalize(guess[hidden], dim=1), F.normalize(target[hidden], dim=1)
    scores = guess @ target.T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores)))
""",
        "points": {"candidates-hidden": 0},
    },
    "hidden leads used as measurements of zero": {
        "fill-limb": """
def fill_limb(signals, visible):
    limb = torch.tensor(leads.EXPANSION[:6, :2], dtype=signals.dtype)
    filled = signals.clone()
    both = torch.linalg.pinv(limb) @ signals[:, :6]
    filled[:, :6] = torch.where(visible[:, :6, None], signals[:, :6], limb @ both)
    return filled
""",
        "points": {"fill-limb-check": 0, "fill-limb-hidden": 0, "too-few-hidden": 0},
    },
    "filled in from I and II only": {
        "fill-limb": """
def fill_limb(signals, visible):
    limb = torch.tensor(leads.EXPANSION[:6, :2], dtype=signals.dtype)
    filled = signals.clone()
    for i, seen in enumerate(visible[:, :6]):
        if seen[0] and seen[1]:
            filled[i, :6] = limb @ signals[i, :2]
    return filled
""",
        "points": {"fill-limb-hidden": 0},
    },
    "the mean of the records' ratios": {
        "hidden-error": """
def hidden_error(truth, filled, visible, which):
    hidden = ~visible[:, which]
    ratios = []
    for t, f, h in zip(truth[:, which], filled[:, which], hidden):
        if h.any():
            ratios.append(float((f - t)[h].square().sum() / t[h].square().sum()))
    return float(np.mean(ratios))
""",
        "points": {"hidden-error-hidden": 0},
    },
    "the loss over all leads": {
        "train-filler": """
def filling_loss(network, signals, visible):
    return (network(signals * visible[..., None], visible) - signals).square().mean()


def train_filler(network, signals, steps=300, batch=32, length=250, rate=3e-3, generator=None):
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        who = torch.randint(len(signals), (batch,), generator=generator)
        start = int(torch.randint(signals.shape[2] - length + 1, (1,), generator=generator))
        visible = draw_visible(batch, generator)
        loss = filling_loss(network, signals[who, :, start : start + length], visible)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network
""",
        "points": {"train-filler-hidden": 0},
    },
    "arithmetic's zeros over the network's answers": {
        "fill-best": """
def fill_best(learned, exact, visible):
    return torch.cat([exact[:, :6], learned[:, 6:]], dim=1)
""",
        "points": {"fill-best-hidden": 0},
    },
}
