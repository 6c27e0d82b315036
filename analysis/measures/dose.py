"""How the detection of planted shortcuts depends on their strength: from the tables of many diagnoses to curves.

A trial is one training on images in which a rule ties attributes, of one world, strength and seed, and its diagnosis.
Pairs of attributes are of three kinds: planted, which a rule is about; tied, which it touches besides; free, all
others, and every pair where nothing is planted (strength .5). The effect of a pair is what a verdict needs: the smaller
one of edits and generation, 0 where their signs differ.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import beta
from scipy.stats import t as student
from sklearn.isotonic import IsotonicRegression

from analysis.measures.auroc import single_auroc
from analysis.measures.shortcuts import LEVEL

NOTHING = 0.5  # the strength at which a rule holds for half of the images
STRONG = 0.75  # the strength from which a shortcut should be found
CONFIDENCE = 0.95
VERDICTS = ("found", "cannot tell", "not found")  # of a pair: the first that one of its directions has


class Tie(NamedTuple):
    """What one rule plants: `sign` is that of raising a on b. It touches each of `ones` with each of `others`."""

    a: str
    b: str
    sign: int
    ones: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.a} {'+' if self.sign > 0 else '-'} {self.b}"

    def touches(self, one: str, other: str) -> bool:
        return (one in self.ones and other in self.others) or (other in self.ones and one in self.others)


def least_effect(table: pd.DataFrame) -> pd.DataFrame:
    """Of ordered pairs (columns of analysis.schemas.EFFECTS with confidence limits): effect, low, high."""
    edit = table["edit"].abs() <= table["generated"].abs()
    values = {"effect": ("edit", "generated")} | {end: (f"edit_{end}", f"generated_{end}") for end in ("low", "high")}
    found = pd.DataFrame({name: np.where(edit, table[one], table[two]) for name, (one, two) in values.items()})
    found.loc[(table["edit"] * table["generated"] <= 0).to_numpy(), "effect"] = 0.0
    return found


def pairs_of(table: pd.DataFrame, ties: list[Tie], strength: float) -> pd.DataFrame:
    """Ordered pairs of one diagnosis -> one row an unordered pair, by the direction of the larger effect: a, b, tie
    (name, '' of none), kind, effect with its interval over images (of planted pairs along the rule's sign, so that the
    contrary is negative; else its size), found, verdict (of both directions), detectable; ordered,
    alarms: how many directions were tested, found."""
    rows = pd.concat([table.reset_index(drop=True), least_effect(table)], axis=1)
    rows["pair"] = [tuple(sorted(pair)) for pair in zip(rows["raised"], rows["moved"])]
    told = []
    for (a, b), both in rows.groupby("pair", sort=False):
        tie = next((tie for tie in ties if {tie.a, tie.b} == {a, b}), None)
        touched = any(tie.touches(a, b) for tie in ties)
        free = strength == NOTHING or not (tie or touched)
        sign = tie.sign if tie else None
        best = both.loc[(both["effect"] * (sign or 1)).idxmax() if sign else both["effect"].abs().idxmax()]
        sign = sign or (1 if best["effect"] >= 0 else -1)
        ends = sorted(sign * best[end] for end in ("low", "high"))
        right = both["shortcut"] & (both["effect"] * sign > 0) if tie else both["shortcut"]
        verdicts = ["found"] if right.any() else [*both["verdict"].replace("found", "not found")]
        told.append(
            {"a": a, "b": b, "tie": tie.name if tie else "", "kind": "free" if free else "planted" if tie else "tied"}
            | {"effect": sign * best["effect"], "low": ends[0], "high": ends[1], "found": bool(right.any())}
            | {"verdict": next(word for word in VERDICTS if word in verdicts)}
            | {"detectable": both["detectable"].min(), "ordered": len(both), "alarms": int(both["shortcut"].sum())}
        )
    return pd.DataFrame(told)


def share(hits: int, of: int) -> tuple[float, float, float]:
    """A rate with its exact limits (Clopper and Pearson 1934); NaN of none."""
    if not of:
        return np.nan, np.nan, np.nan
    tail = (1 - CONFIDENCE) / 2
    low = beta.ppf(tail, hits, of - hits + 1) if hits else 0.0
    high = beta.ppf(1 - tail, hits + 1, of - hits) if hits < of else 1.0
    return hits / of, float(low), float(high)


def half_found(strengths: np.ndarray, rates: np.ndarray, runs: np.ndarray) -> float:
    """The strength found in half of the runs: detection rates made monotone (weighted by runs), interpolated; the
    lowest strength where it is found so often from there on, NaN where never."""
    order = np.argsort(strengths)
    x, y = np.asarray(strengths, float)[order], np.asarray(rates, float)[order]
    y = IsotonicRegression().fit(x, y, sample_weight=np.asarray(runs, float)[order]).predict(x)
    at = int(np.argmax(y >= 0.5))
    if y[at] < 0.5:
        return np.nan
    if at == 0:
        return float(x[0])
    return float(x[at - 1] + (0.5 - y[at - 1]) / (y[at] - y[at - 1]) * (x[at] - x[at - 1]))


def pooled_interval(values: pd.Series, strengths: pd.Series) -> tuple[pd.DataFrame, int]:
    """Means by strength with half widths of their intervals by Student's t, the deviation between runs of one strength
    pooled over strengths; NaN where no strength has two runs. -> (mean, half, runs by strength), degrees of freedom."""
    groups = values.groupby(strengths)
    runs, freedom = groups.size(), len(values) - groups.ngroups
    deviation = np.sqrt(np.square(values - groups.transform("mean")).sum() / freedom) if freedom else np.nan
    half = student.ppf((1 + CONFIDENCE) / 2, freedom) * deviation / np.sqrt(runs) if freedom else runs * np.nan
    return pd.DataFrame({"mean": groups.mean(), "half": half, "runs": runs}), freedom


def curves(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row a world, tie and strength. pairs: rows of `pairs_of` with world, strength and seed.

    effect with low and high: between runs, and where no strength has two runs the mean interval over images of each.
    auroc: of the effects of this pair against the sizes of those of free pairs of this world, at this strength and
    where nothing is planted. alarms: shortcuts found among free ordered pairs of the same.
    """
    rows = []
    for (world, tie), own in pairs[pairs["tie"] != ""].groupby(["world", "tie"], sort=False):
        table, freedom = pooled_interval(own["effect"], own["strength"])
        for strength, (mean, half, runs) in table.iterrows():
            here = own[own["strength"] == strength]
            inside = (pairs["world"] == world) & (pairs["kind"] == "free") & pairs["strength"].isin([strength, NOTHING])
            free = pairs[inside & (pairs["tie"] != tie)]
            effects = np.concatenate([here["effect"], free["effect"].abs()])
            planted = np.arange(len(effects)) < len(here)
            rate, low, high = share(int(here["found"].sum()), len(here))
            limits = (mean - half, mean + half) if freedom else (here["low"].mean(), here["high"].mean())
            rows.append(
                {"world": world, "tie": tie, "strength": strength, "runs": int(runs), "effect": mean}
                | {"low": limits[0], "high": limits[1], "interval": "runs" if freedom else "images"}
                | {"found": rate, "found_low": low, "found_high": high, "detectable": here["detectable"].median()}
                | {"auroc": single_auroc(effects[:, None], planted.astype(float))[0]}
                | {"alarms": int(free["alarms"].sum()), "pairs": int(free["ordered"].sum())}
            )
    return pd.DataFrame(rows)


def overall(pairs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """One row a world and tie of `curves`: half_found; auroc over all strengths from STRONG on, against free pairs of
    the same and of where nothing is planted; alarms among pairs, the free ordered ones of all strengths."""
    rows = []
    for (world, tie), own in table.groupby(["world", "tie"], sort=False):
        here = pairs[pairs["world"] == world]
        free, planted = here[(here["kind"] == "free") & (here["tie"] != tie)], here[here["tie"] == tie]
        near = free[(free["strength"] >= STRONG) | (free["strength"] == NOTHING)]
        strong = planted[planted["strength"] >= STRONG]
        effects = np.concatenate([strong["effect"], near["effect"].abs()])
        auroc = single_auroc(effects[:, None], (np.arange(len(effects)) < len(strong)).astype(float))[0]
        half = half_found(own["strength"], own["found"], own["runs"])
        counts = {"alarms": int(free["alarms"].sum()), "pairs": int(free["ordered"].sum())}
        rows.append({"world": world, "tie": tie, "half_found": half, "auroc": auroc} | counts)
    return pd.DataFrame(rows)


def named_at(table: pd.DataFrame, bar: float) -> pd.Series:
    """Which ordered pairs would be shortcuts, were `bar` the least effect that is named."""
    agree = table["edit"] * table["generated"] > 0
    return agree & (table["p"] < LEVEL) & (least_effect(table)["effect"].abs() >= bar).to_numpy()


def unbiased_effects(tables: list[pd.DataFrame]) -> np.ndarray:
    """Sizes of the effects of all ordered pairs of diagnoses in which nothing is planted."""
    return np.concatenate([least_effect(table)["effect"].abs() for table in tables])


def rank_of(told: list[tuple[str, str]], tie: Tie) -> int | None:
    """The place, from 1, of the first ranked tie of what the rule ties; None where there is none. told: the attributes
    that both sides of each ranked tie tell, '' of none."""
    return next((i for i, sides in enumerate(told, 1) if tie.touches(*sides)), None)
