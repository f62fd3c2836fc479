"""What a chapter says about its own run: numbers for the prose, and the cohort it ran on.

The book's pages take every number from a run. A chapter calls ``record`` beside the computation,
and its prose asks for the name with the ``glue`` role. The chapter need not know the book's build
tool for that, so the same cell runs on Colab, where the build tool is not installed.
"""

# The MIME prefix under which the build tool looks for recorded values. A notebook front end does
# not know this type, so it draws nothing.
RECORD_PREFIX = "application/papermill.record/"


def record(name, value):
    """Keep a number or a string of this run under a name that prose can show.

    In Markdown, ``{glue:text}`name:.3f` `` shows it, and
    ``{glue:text}`../methods/3kg.ipynb::name:.3f` `` shows it on another page. There the format must
    stand, ``:s`` for a string.

    Parameters
    ----------
    name : str
        Letters, digits, ``-`` and ``_``, unique in the chapter: ``"auc-probe-10"``.
    value : float, int, bool or str
        numpy scalars and tensors or arrays with one element are taken as plain numbers.

    Raises
    ------
    ValueError
        If the name could not be written in a role, or the value is not a single number or string.

    Explained in the chapter ``signal/the-twelve-lead-ecg``.
    """
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(
            f"record: name is {name!r}; expected letters, digits, '-' and '_' only, because "
            "prose separates the name from its format with a colon. Choose such a name."
        )
    from IPython.display import display

    display(
        {RECORD_PREFIX + "text/plain": repr(_plain(name, value))},
        metadata={"scrapbook": {"name": name, "mime_prefix": RECORD_PREFIX}},
        raw=True,
    )


def _plain(name, value):
    # The build tool reads the value back from its repr, and numpy's repr is "np.float64(0.5)".
    if hasattr(value, "item") and getattr(value, "size", 1) != 0:
        try:
            value = value.item()
        except (RuntimeError, ValueError, TypeError):  # more than one element
            pass
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError(
            f"record: value of {name!r} is {type(value).__name__}; expected one number or one "
            "string. Pick the element, or reduce it, for example with float(value.mean())."
        )
    return value


def this_run(cohort, scale):
    """Show one line that says what this run used: cohort, size, sampling rate and scale.

    Parameters
    ----------
    cohort : Cohort
        The opened cohort.
    scale : str
        ``"quick"``, ``"full"`` or ``"paper"``.

    Raises
    ------
    ValueError
        If the scale is none of the three.

    Explained in the chapter ``signal/the-twelve-lead-ecg``.
    """
    if scale not in ("quick", "full", "paper"):
        raise ValueError(
            f"this_run: scale is {scale!r}; expected 'quick', 'full' or 'paper'. "
            "Set it in the parameters cell or with ECGTUTORIAL_SCALE."
        )
    from IPython.display import Markdown, display

    patients = cohort.table["patient_id"].nunique()
    display(
        Markdown(
            f"**This run:** cohort `{cohort.name}`, {len(cohort):,} records of {patients:,} "
            f"patients at {cohort.fs:g} Hz, scale `{scale}`."
        )
    )
