"""Seven typical wrong answers to assignment 3, and the points that each test cell gives for them.

``WRONG[what is wrong]`` maps a solution cell's grade id to what the student wrote, and ``points``
to the test cells that give less than their full points. All other cells hold the solution. The hint
that a student gets is the one in the metadata of the cells that give less.
"""

WRONG = {
    "a row competes with itself": {
        "loss": """
def nt_xent(z, temperature=0.5):
    n = len(z) // 2
    z = F.normalize(z, dim=1)
    return F.cross_entropy(z @ z.T / temperature, torch.arange(2 * n).roll(n))
""",
        "points": {"loss-check": 0, "loss-slow": 0},
    },
    "products instead of cosines": {
        "loss": """
def nt_xent(z, temperature=0.5):
    n = len(z) // 2
    s = z @ z.T / temperature
    s = s.masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(s, torch.arange(2 * n).roll(n))
""",
        "points": {"loss-slow": 0, "loss-normalise": 0},
    },
    "multiplies by the temperature": {
        "loss": """
def nt_xent(z, temperature=0.5):
    n = len(z) // 2
    z = F.normalize(z, dim=1)
    s = z @ z.T * temperature
    s = s.masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(s, torch.arange(2 * n).roll(n))
""",
        "points": {"loss-slow": 0, "loss-temperature": 0},
    },
    "takes the exponential and then the logarithm": {
        "loss": """
def nt_xent(z, temperature=0.5):
    n = len(z) // 2
    z = F.normalize(z, dim=1)
    e = torch.exp(z @ z.T / temperature)
    e = e * (1 - torch.eye(2 * n))
    rows = torch.arange(2 * n)
    return -torch.log(e[rows, rows.roll(n)] / e.sum(dim=1)).mean()
""",
        "points": {"loss-stable": 0},
    },
    "forgets the temperature in the chain rule": {
        "forces": """
def similarity_gradient(s, temperature):
    n = len(s) // 2
    logits = (s / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    return (logits.softmax(dim=1) - torch.eye(2 * n, dtype=s.dtype).roll(n, dims=1)) / (2 * n)


def hardest_share(s, temperature):
    n = len(s) // 2
    out = torch.eye(2 * n, dtype=torch.bool)
    out = out | out.roll(n, dims=1)
    share = (s / temperature).masked_fill(out, -torch.inf).softmax(dim=1)
    return float(share.max(dim=1).values.mean())
""",
        "points": {"forces-gradient": 0},
    },
    "counts singular values above zero": {
        "collapse": """
def deviation(z):
    z = F.normalize(z, dim=1)
    return float((z - z.mean(dim=0)).square().mean().sqrt() * math.sqrt(z.shape[1]))


def effective_rank(z):
    z = F.normalize(z, dim=1)
    return float(max(1, torch.linalg.matrix_rank(z - z.mean(dim=0))))
""",
        "points": {"collapse-rank": 0},
    },
    "contrasts a piece with itself": {
        "learn": """
def two_views(signals, length, generator):
    start = int(torch.randint(signals.shape[2] - length + 1, (1,), generator=generator))
    view = signals[:, :, start : start + length]
    return view, view


def train(network, signals, n_steps, temperature, generator):
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002)
    history = []
    for _ in range(n_steps):
        rows = torch.randperm(len(signals), generator=generator)[:64]
        loss = contrast(network(torch.cat(two_views(signals[rows], 250, generator))), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    return history
""",
        "points": {"learn-check": 0, "learn-views": 0, "learn-quiz": 0},
    },
}
