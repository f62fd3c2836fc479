"""Self-supervised learning on 12-lead ECG: the package that the book's chapters import.

    import ecgtutorial as ecg
    cohort = ecg.open_cohort("simulated")

Nothing else happens on import: names are looked up when they are first used.
"""

__all__ = ["Cohort", "__version__", "open_cohort"]


def __getattr__(name):
    # Python calls this for names the module does not have yet (PEP 562).
    if name in ("open_cohort", "Cohort"):
        from . import cohort

        return getattr(cohort, name)
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("ecgtutorial")
        except metadata.PackageNotFoundError:  # a source tree on the path, not installed
            return "0+unknown"
    raise AttributeError(f"module 'ecgtutorial' has no attribute {name!r}")


def __dir__():
    return sorted(list(globals()) + ["Cohort", "__version__", "open_cohort"])
