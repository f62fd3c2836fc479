"""The command line of the published experiments."""

import argparse
import contextlib

import joblib

from . import EXPERIMENTS, SCALES, __doc__, open_for, rate_of


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("cohort", choices=["simulated", "ptb-xl", "simulated-vt"])
    parser.add_argument("--data", help="folder in PTB-XL's layout; without it PTB-XL is downloaded")
    parser.add_argument("--more", help="folder of unlabelled WFDB records, for `unlabelled`")
    parser.add_argument("--scale", default="full", choices=list(SCALES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="results")
    parser.add_argument("--jobs", type=int, default=1, help="processes; give each its cores")
    parser.add_argument("--scheduler", help="address of a Dask scheduler, such as tcp://host:8786")
    arguments = parser.parse_args()
    name, fs = arguments.experiment, rate_of(arguments.experiment)
    cohort = open_for(arguments.scale, arguments.cohort, arguments.data, fs)
    path = f"{arguments.out}/{arguments.cohort}/{name}.csv"
    more = {"more": arguments.more} if name == "unlabelled" else {}
    with workers(arguments.jobs, arguments.scheduler):
        frame = EXPERIMENTS[name](cohort, arguments.scale, arguments.seeds, path, **more)
    summary = frame[frame["seed"] == "all"]
    metrics = summary["metric"].unique()
    wanted = "distance_median" if "distance_median" in metrics else "macro_auc"
    summary = summary[summary["metric"] == (wanted if wanted in metrics else metrics[0])]
    varied = ("noise", "budget", "leads", "statement")
    across = next((c for c in varied if summary[c].nunique() > 1), "budget")
    rows = summary.assign(**{across: summary[across].fillna("-")})
    print(rows.pivot_table("value", ["protocol", "method"], across).round(3).to_string())


@contextlib.contextmanager
def workers(jobs, scheduler=None):
    """Let the cells of a grid run in `jobs` processes, or on the workers of a Dask cluster."""
    if scheduler is None:
        with joblib.parallel_config(n_jobs=jobs):
            yield
    else:
        from distributed import Client

        with Client(scheduler), joblib.parallel_config(backend="dask"):
            yield


if __name__ == "__main__":
    main()
