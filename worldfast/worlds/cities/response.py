"""Dose and response: what a table of fine-tunes at several doses says over seeds. Functions of tables.

A table of doses has a row for each fine-tune and checkpoint: columns run, base, seed, tasks ("distance+angle"),
schedule ("constant" or "linear"), share, noise, group, dose, error, and what else was measured
(worldfast.worlds.cities.dose_analyses). At a rate that falls, only a fine-tune's last checkpoint is a dose.
"""

from __future__ import annotations

import numpy as np

from worldfast import frames as pd
from worldfast.analysis import Mean, mean_and_error, need_columns

__all__ = ["beside", "beside_over_tasks", "contrast", "levels", "most_tasks", "response", "tested", "whole"]

KEYS = ["group", "tasks", "schedule", "share", "noise"]
NEED = ("base", "seed", "run", *KEYS, "step", "dose", "error")
MEASURED = (
    "error",
    "held_out",
    "alone_r2",
    "alone_error",
    "constant_error",
    "old_cka",
    "moved",
    "old_moved",
    "moved_dimension",
    "old_moved_dimension",
    "cosine",
)
LATE = 1 / 2  # of the largest dose, from which on an error counts as its level
ALIKE = 0.05  # as a share: doses that count as one
ROUNDED = 1e-9  # values that differ by no more are equal, of numbers around 1


def usable(doses: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are doses: all at a constant rate; at a falling one the first and the last of each run."""
    need_columns(doses, "doses", NEED)
    if not len(doses):
        raise ValueError("doses: it has no rows: no fine-tune was taught a group")
    ends = doses["step"] == doses.groupby("run")["step"].transform("max")
    return doses[(doses["schedule"] == "constant") | ends | (doses["dose"] == 0)]


def whole(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of fine-tunes whose tasks have equal shares and no noise."""
    return table[(table["share"] == 1) & (table["noise"] == 0)]


def response(doses: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of whatever was measured, at each dose.

    Parameters
    ----------
    doses : DataFrame
        A table of doses.

    Returns
    -------
    DataFrame
        Columns group, tasks, schedule, share, noise, dose, what ("error", "alone_r2" ...), mean, standard_error (NaN
        for one seed), n, unit ("seed").

    Raises
    ------
    ValueError
        A column is missing, or there is no row.
    """
    table, lines = usable(doses), []
    for keys, some in table.groupby([*KEYS, "dose"], sort=False):
        of_seed = some.groupby("seed")[[what for what in MEASURED if what in some]].mean()
        for what in of_seed:
            values = of_seed[what].dropna()
            if len(values):
                lines.append((*keys, what, *_parts(mean_and_error(values, "seed"))))
    columns = [*KEYS, "dose", "what", "mean", "standard_error", "n", "unit"]
    return pd.DataFrame(lines, columns=columns).sort_values([*KEYS, "what", "dose"], ignore_index=True)


def levels(doses: pd.DataFrame) -> pd.DataFrame:
    """Return how many rows halve the error of each kind of fine-tune, and where it levels off.

    Parameters
    ----------
    doses : DataFrame
        A table of doses.

    Returns
    -------
    DataFrame
        Columns group, tasks, schedule, share, noise; largest (dose); start, level (mean error at dose 0 and over doses
        from half of the largest on), level_standard_error; half_dose (least dose at which the error is half of that at
        dose 0, between two doses by a straight line; mean over the seeds that reached it, NaN if none did),
        half_standard_error, reached (number of those); n, unit ("seed").

    Raises
    ------
    ValueError
        A column is missing, or there is no row.
    """
    table, lines = usable(doses), []
    for keys, some in table.groupby(KEYS, sort=False):
        start, level, half = [], [], []
        for _, of_seed in some.groupby("seed"):
            curve = of_seed.groupby("dose")["error"].mean()
            dose, error = curve.index.to_numpy(float), curve.to_numpy()
            start.append(error[0])
            level.append(error[dose >= LATE * dose[-1]].mean())
            half.append(_crossing(dose, error, error[0] / 2))
        there = [dose for dose in half if np.isfinite(dose)]
        found, halved = mean_and_error(level, "seed"), mean_and_error(there, "seed") if there else None
        parts = (halved.mean, halved.standard_error) if halved else (np.nan, np.nan)
        of = (some["dose"].max(), np.mean(start), found.mean, found.standard_error)
        lines.append((*keys, *of, *parts, len(there), found.n, found.unit))
    names = "largest start level level_standard_error half_dose half_standard_error reached n unit"
    return pd.DataFrame(lines, columns=[*KEYS, *names.split()])


def _crossing(dose: np.ndarray, error: np.ndarray, half: float) -> float:
    """Return the least dose at which a curve comes down to `half`; NaN if it does not."""
    below = np.flatnonzero(error <= half)
    if not len(below):
        return float("nan")
    i = below[0]
    if i == 0:
        return float(dose[0])
    return float(np.interp(half, [error[i], error[i - 1]], [dose[i], dose[i - 1]]))


def beside(doses: pd.DataFrame) -> pd.DataFrame:
    """Return what a second task leaves of a first one's effect, at equal rows of the first.

    Each pair at its largest dose is compared with the fine-tune on one of its tasks from the same base, at the same
    schedule and dose.

    Parameters
    ----------
    doses : DataFrame
        A table of doses.

    Returns
    -------
    DataFrame
        Columns group, task, beside (the second task), schedule, share and noise (of the second task); dose; start,
        alone, together (mean error of the pair at dose 0, of the task by itself, and of the pair); ratio (together /
        alone, geometric mean over seeds: above 1 the second task does harm), log_ratio, standard_error (of log_ratio,
        NaN for one seed); kept (mean of log(start / together) / log(start / alone): the share of the first task's
        effect that is left), kept_standard_error; p, test, n, unit ("seed"). A pair without its first task by itself
        at that dose is left out.

    Raises
    ------
    ValueError
        A column is missing, or there is no row.
    """
    lines = []
    for keys, some in _pairs(doses).groupby(OF_PAIR, sort=False):
        lines.append(
            dict(zip(OF_PAIR, keys)) | _compared(*some[["dose", "start", "alone", "together"]].to_numpy(float).T)
        )
    return pd.DataFrame(lines)


def beside_over_tasks(doses: pd.DataFrame, task: str = "distance") -> pd.DataFrame:
    """Return what a task does beside others, and what these do beside each other: over tasks, then over seeds.

    The logarithms of the ratios of `beside`, at equal shares and without noise, are averaged over tasks within each
    seed, since seeds are what was repeated; bases that lack one of the tasks are left out.

    Parameters
    ----------
    doses : DataFrame
        A table of doses.
    task : str
        Task whose effect on the others is asked for.

    Returns
    -------
    DataFrame
        Columns group, schedule, beside (`task`, or "another task"), n_tasks; ratio, log_ratio, standard_error, p, test,
        n, unit ("seed"), as of `beside`.

    Raises
    ------
    ValueError
        A column is missing, or there is no row.
    """
    pairs, lines = whole(_pairs(doses)), []
    pairs = pairs[pairs["task"] != task]
    of = pairs.assign(
        beside=np.where(pairs["beside"] == task, task, "another task"),
        log_ratio=np.log(pairs["together"] / pairs["alone"]),
    )
    for (group, schedule, beside), some in of.groupby(["group", "schedule", "beside"], sort=False):
        of_seed = some.groupby(["base", "task"])["log_ratio"].mean().unstack().dropna().mean(axis=1)
        if len(of_seed):
            found = tested(of_seed)
            line = {"group": group, "schedule": schedule, "beside": beside, "n_tasks": some["task"].nunique()}
            lines.append(line | {"ratio": float(np.exp(found["log_ratio"]))} | found)
    columns = "group schedule beside n_tasks ratio log_ratio standard_error p test n unit"
    return pd.DataFrame(lines, columns=columns.split())


OF_PAIR = ["group", "task", "beside", "schedule", "share", "noise"]
PAIR = [*OF_PAIR, "base", "dose", "start", "alone", "together"]


def _pairs(doses: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each base, pair and first task of it: errors of the task by itself and of the pair, at one dose.

    Columns are PAIR.
    """
    table, lines = usable(doses), []
    two = table["tasks"].str.count(r"\+") == 1
    curves = {
        keys: some.groupby("dose")["error"].mean()
        for keys, some in whole(table[~two]).groupby(["group", "tasks", "schedule", "base"])
    }
    at = {"constant": _between}  # at a rate that falls, what lies between two fine-tunes was not measured
    for (group, tasks, schedule, share, noise), some in table[two].groupby(KEYS, sort=False):
        names = tasks.split("+")
        for task, other in (names, names[::-1]):
            if (share < 1 or noise > 0) and other != "distance":
                continue  # the rows that were taken away, or mistaken, are those of distance
            for base, of_base in some.groupby("base"):
                pair = of_base.groupby("dose")["error"].mean()
                curve = curves.get((group, task, schedule, base))
                alone = None if curve is None else at.get(schedule, _nearest)(curve, pair.index[-1])
                if alone is not None:
                    of_pair = (pair.index[-1], pair.iloc[0], alone, pair.iloc[-1])
                    lines.append((group, task, other, schedule, share, noise, base, *of_pair))
    return pd.DataFrame(lines, columns=PAIR)


def _between(curve: pd.Series, dose: float) -> float | None:
    """Return the error of a curve at a dose, between two doses by a straight line; None beyond its largest."""
    if dose > (1 + ALIKE) * curve.index[-1]:
        return None
    return float(np.interp(dose, curve.index.to_numpy(float), curve.to_numpy()))


def _nearest(curve: pd.Series, dose: float) -> float | None:
    """Return the error of a curve at the dose that counts as this one; None if it has none."""
    away = np.abs(curve.index.to_numpy(float) - dose)
    return float(curve.iloc[away.argmin()]) if away.min() <= ALIKE * dose else None


def _compared(dose: np.ndarray, start: np.ndarray, alone: np.ndarray, together: np.ndarray) -> dict:
    ratio = tested(np.log(together / alone))
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.log(start / together) / np.log(start / alone)
    left = mean_and_error(kept, "seed") if np.isfinite(kept).all() else Mean(np.nan, np.nan, len(kept), "seed")
    return {
        "dose": dose.mean(),
        "start": start.mean(),
        "alone": alone.mean(),
        "together": together.mean(),
        "ratio": float(np.exp(ratio["log_ratio"])),
        **ratio,
        "kept": left.mean,
        "kept_standard_error": left.standard_error,
    }


def contrast(doses: pd.DataFrame, task: str = "distance") -> pd.DataFrame:
    """Return how fine-tunes with a task among theirs differ from those without, in whatever was measured.

    Of fine-tunes at a constant rate, each at its largest dose, those on as many tasks are compared.

    Parameters
    ----------
    doses : DataFrame
        A table of doses.
    task : str
        Task that divides the fine-tunes.

    Returns
    -------
    DataFrame
        Columns group, n_tasks, what ("alone_r2" ...), apart, rest (mean with the task, and without it), difference
        (apart - rest), standard_error (NaN for one seed), p, test, n, unit ("seed"). What was not measured of both is
        left out.

    Raises
    ------
    ValueError
        A column is missing, or there is no row.
    """
    table = whole(usable(doses))
    table, lines = table[table["schedule"] == "constant"], []
    table = table.assign(
        n_tasks=table["tasks"].str.count(r"\+") + 1, far=[task in tasks.split("+") for tasks in table["tasks"]]
    )
    for what in (what for what in MEASURED if what in table):
        there = table[table[what].notna()]
        there = there.loc[there.groupby(["group", "run"])["dose"].idxmax()]
        for (group, n_tasks), some in there.groupby(["group", "n_tasks"]):
            means = some.groupby(["seed", "far"])[what].mean().unstack()
            if means.shape[1] == 2 and len(means := means.dropna()):
                found = _tested(means[True] - means[False], "difference")
                line = {"group": group, "n_tasks": n_tasks, "what": what}
                lines.append(line | {"apart": means[True].mean(), "rest": means[False].mean()} | found)
    columns = "group n_tasks what apart rest difference standard_error p test n unit"
    return pd.DataFrame(lines, columns=columns.split())


def most_tasks(contrasts: pd.DataFrame) -> pd.DataFrame:
    """Return of each group and measure the contrast of fine-tunes on most tasks."""
    if not len(contrasts):
        return contrasts
    return contrasts.loc[contrasts.groupby(["group", "what"], sort=False)["n_tasks"].idxmax()]


def tested(log_ratios) -> dict:
    """Return the mean of one logarithm of a ratio a seed, its standard error, and a test that it is 0.

    Parameters
    ----------
    log_ratios : array [n]
        At least one.

    Returns
    -------
    dict
        log_ratio, standard_error, p, test, n, unit. p is NaN, and test says why, for one seed or if all
        are equal up to rounding.
    """
    return _tested(log_ratios, "log_ratio", "logarithm of the ratio")


def _tested(values, name: str, of: str = "difference") -> dict:
    """Return what `tested` does, of one value a seed that is called `name`, and `of` in words."""
    from scipy.stats import ttest_1samp

    values = np.asarray(values, dtype=float)
    found = mean_and_error(values, "seed")
    same = found.n > 1 and np.ptp(values) <= ROUNDED * max(1.0, np.abs(values).max())
    if found.n == 1:
        p, test = np.nan, "none: one seed, and nothing was repeated"
    elif same:
        p, test = np.nan, "none: all seeds are equal"
    else:
        p, test = float(ttest_1samp(values, 0).pvalue), f"two-sided, t-test that the {of} is 0"
    about = {name: found.mean, "standard_error": found.standard_error}
    return about | {"p": p, "test": test, "n": found.n, "unit": found.unit}


def _parts(found: Mean) -> tuple:
    return found.mean, found.standard_error, found.n, found.unit
