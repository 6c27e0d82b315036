"""Counterfactual scores: what all scores of an image would be if some of them had other values, learnt from the scores
of known images.

Every way has one interface: KnownScores, own scores (B, m), prototypes, values (B, K) -> edited scores (B, m). None
needs labels. `transport` is the default; `regress` and `hide_correlated` are kept for comparison.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from models.patronus import HIDDEN

LOW, HIGH = 0.01, 0.99  # quantiles of known scores that count as low and high
SHARE = 0.05  # of the known images: those whose scores are nearest to the commanded value
WIDTH = 0.4  # share of those around the own value, a unit of difference in rank
FEWEST, MOST = 24, 2000  # of them at least and at most
RELATED = 1.0  # standard errors by which the mean rank of a score differs from the middle where an edit moves it
CONTRACTED = 0.15  # ratio of variances below which a direction carries an alternative that the edit excludes
MODE, CLIMBS = 0.1, 5  # share of the target's images that are near, and steps to their middle, of an alternative
FLOOR = 0.1  # of variances, in the unit of a score's own: what is smaller is no direction
CORRELATED = 0.2  # |correlation| above which `hide_correlated` hides
NEAREST, DOUBT = 200, 4.0  # of `regress`: neighbours, and variances below which what they say is shrunk to nothing


class KnownScores:
    """Scores of a data set (N, m), with their ranks; hold one and reuse it. Everything stays on the device of
    `scores`."""

    def __init__(self, scores: Tensor):
        self.scores = scores.float()

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def ranks(self) -> Tensor:
        """Share of known images below each score, ties in order of appearance: (N, m) in (0, 1)."""
        ranks = torch.empty_like(self.scores)
        steps = (torch.arange(len(ranks), device=ranks.device) + 0.5) / len(ranks)
        for column, values in zip(ranks.T, self.scores.T):  # one at a time: sorting needs four times the memory
            column[values.argsort(stable=True)] = steps
        return ranks

    def beside(self, column: Tensor) -> "KnownScores":
        """The same and one more score (N,), without sorting them all anew."""
        alone = KnownScores(column[:, None])
        both = KnownScores(torch.cat([self.scores, alone.scores], dim=1))
        both.ranks = torch.cat([self.ranks, alone.ranks], dim=1)
        return both

    @cached_property
    def deviation(self) -> Tensor:
        """Standard deviation of each score, at least .02: (m,)."""
        return self.scores.std(0).clamp(min=0.02)

    @cached_property
    def limits(self) -> Tensor:
        """The low and the high score of every prototype, its 1 % and 99 % quantile: (m, 2)."""
        return quantiles(self.scores)

    @cached_property
    def range(self) -> Tensor:
        """The lowest and the highest score seen of every prototype, to which the paper's figures set it: (m, 2)."""
        return torch.stack([self.scores.amin(0), self.scores.amax(0)], dim=1)


def quantiles(known: Tensor) -> Tensor:
    """The low and the high score of every prototype, of known scores (N, m): (m, 2), low first."""
    position = known.new_tensor([LOW, HIGH])
    return torch.stack([torch.quantile(column.float(), position) for column in known.T])  # at once: at most 16 million


def positions(known: KnownScores, prototypes: Sequence[int], values: Tensor) -> Tensor:
    """Share of known images whose score lies below a value, half of equal ones counted: values (B, K) of K prototypes
    -> (B, K) in [0, 1]."""
    columns = []
    for k, column in zip(prototypes, values.T.contiguous()):
        ordered = known.scores[:, k].sort().values
        ends = [torch.searchsorted(ordered, column.contiguous(), right=right) for right in (False, True)]
        columns.append((ends[0] + ends[1]) / (2 * len(known)))
    return torch.stack(columns, dim=1)


class _Neighbours:
    """The known images whose scores of some prototypes are nearest, by rank, to given positions (K,): means and
    deviations from them."""

    def __init__(self, known: KnownScores, prototypes: list[int], where: Tensor, count: int):
        distance = (known.ranks[:, prototypes] - where).abs().amax(1)  # (N,)
        self.rows = distance.topk(count, largest=False).indices
        self.rank = known.ranks[self.rows].mean(0)  # (m,)
        self.scores = known.scores[self.rows] / known.deviation  # (n, m)
        self.mean = self.scores.mean(0)

    def covariance(self, related: Tensor) -> Tensor:
        floor = FLOOR * torch.eye(int(related.sum()), device=self.mean.device)
        return torch.cov(self.scores[:, related].T).view(floor.shape) + floor


def _carried(target: _Neighbours, source: _Neighbours, related: Tensor, deviation: Tensor, choose: bool) -> Tensor:
    """A deviation (J,) of related scores from the mean of `source`, as it is around that of `target`: (J,).

    Directions of which the target has less than CONTRACTED of the source's variance are removed. With `choose`, those
    of which the source has as little of the target's are taken from the target: the middle of its images that are
    nearest to what an optimal transport makes of the deviation (mean shift, Comaniciu and Meer 2002).
    """
    values, vectors = torch.linalg.eigh(source.covariance(related))
    root, inverse = (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
    ratio, directions = torch.linalg.eigh(inverse @ target.covariance(related) @ inverse)
    along = directions.T @ inverse @ deviation
    carried, opened = along * (ratio >= CONTRACTED), ratio > 1 / CONTRACTED
    if choose and opened.any():
        there = (target.scores - target.mean)[:, related] @ inverse @ directions[:, opened]  # (n, D)
        place, near = (along * ratio.sqrt())[opened], max(round(MODE * len(there)), 1)
        for _ in range(CLIMBS):
            place = there[(there - place).square().sum(1).topk(near, largest=False).indices].mean(0)
        carried[opened] = place
    return root @ directions @ carried


def transport(
    known: KnownScores,
    s: Tensor,
    prototypes: Sequence[int],
    values: Tensor,
    related: float = RELATED,
    choose: bool = False,
) -> Tensor:
    """Own scores (B, m) carried from the known images around their own value to those around the commanded one; values
    (B, K): (B, m).

    Both sets are nearest by rank in the commanded prototypes: SHARE of the known images there, and here more of them
    the farther the command lies (WIDTH). Scores whose mean rank lies in the middle in both sets have nothing to do with
    the edit and are kept. The others move by the difference of the means; of their deviation from the mean, the
    directions that vary here and hardly there are removed: alternatives that exclude each other (an image set to red
    hair must lose which other colour it had). That is the optimal transport between two Gaussians (Knott and Smith
    1984) with the scaling of each direction rounded to 0 or 1. What varies there and hardly here are alternatives, too
    (an image without red hair has one of the other colours): `choose` takes one of them, else the image gets their
    mean. related: standard errors of a mean rank, instead of RELATED.

    An edit to the image's own values changes nothing. Scores stay within the range of the known ones, unless they were
    outside before. Time O(B (N + n J^2)), memory O(N m) for n neighbours, J related scores.
    """
    prototypes = list(prototypes)
    count = min(max(round(SHARE * len(known)), FEWEST), MOST, len(known))
    least = related * (12 * count) ** -0.5  # the mean rank of n images at random has variance 1 / (12 n)
    targets, own = (positions(known, prototypes, v) for v in (values, s[:, prototypes]))
    unique, which = targets.unique(dim=0, return_inverse=True)
    there = [_Neighbours(known, prototypes, where, count) for where in unique]
    change = torch.zeros_like(s)
    for image, (number, where) in enumerate(zip(which.tolist(), own)):
        wide = round(WIDTH * (where - unique[number]).abs().amax().item() * len(known))
        target, source = there[number], _Neighbours(known, prototypes, where, max(count, min(wide, MOST, len(known))))
        moved = torch.maximum((target.rank - 0.5).abs(), (source.rank - 0.5).abs()) > least
        if not moved.any():
            continue
        deviation = (s[image] / known.deviation - source.mean)[moved]
        carried = _carried(target, source, moved, deviation, choose)
        change[image, moved] = (target.mean - source.mean)[moved] + carried - deviation
    return _commanded(known, s, s + change * known.deviation, prototypes, values)


def _commanded(known: KnownScores, s: Tensor, edited: Tensor, prototypes: list[int], values: Tensor) -> Tensor:
    """Edited scores within the range of the known or the own ones, the commanded at their values; all (B, m), values
    (B, K)."""
    lowest, highest = known.range.T
    edited = edited.clamp(torch.minimum(lowest, s), torch.maximum(highest, s))
    edited[:, prototypes] = values
    return edited


def keep(known: KnownScores, s: Tensor, prototypes: Sequence[int], values: Tensor) -> Tensor:
    """Own scores (B, m) with those of K prototypes at values (B, K), all others as they are."""
    edited = s.clone()
    edited[:, list(prototypes)] = values
    return edited


def regress(known: KnownScores, s: Tensor, prototypes: Sequence[int], values: Tensor) -> Tensor:
    """Own scores (B, m) moved as the mean of the known ones moves where those of K prototypes change to values (B, K).

    By linear regression on the commanded scores, and by what it leaves, which matters where scores rise and fall again:
    the mean residual of the NEAREST known images there, less that of those around s. What the neighbours do not tell
    surely is shrunk by 1 - DOUBT variances / square (positive-part James-Stein). Where N <= NEAREST all are neighbours,
    and the line alone remains.
    """
    prototypes, scores = list(prototypes), known.scores
    covariance, commanded = torch.cov(scores.T), scores[:, prototypes]  # (m, m), (N, K)
    spread = commanded.std(0).clamp(min=1e-6)
    among = covariance[prototypes][:, prototypes]  # (K, K)
    ridge = 1e-3 * among.diagonal().mean().clamp(min=1e-12) * torch.eye(len(prototypes), device=s.device)
    slopes = torch.linalg.solve(among + ridge, covariance[prototypes])  # (K, m)

    def around(where: Tensor) -> tuple[Tensor, Tensor]:
        """Mean residual near commanded scores (B, K) and its variance, (B, m) each."""
        nearest = torch.cdist(where / spread, commanded / spread).topk(min(NEAREST, len(known)), largest=False).indices
        residuals = scores[nearest] - commanded[nearest] @ slopes  # (B, NEAREST, m)
        return residuals.mean(1), residuals.var(1) / residuals.shape[1]

    (there, there_variance), (here, here_variance) = around(values), around(s[:, prototypes])
    bend = there - here
    bend *= (1 - DOUBT * (there_variance + here_variance) / bend.square().clamp(min=1e-12)).clamp(min=0)
    return _commanded(known, s, s + (values - s[:, prototypes]) @ slopes + bend, prototypes, values)


def hide_correlated(known: KnownScores, s: Tensor, prototypes: Sequence[int], values: Tensor) -> Tensor:
    """`regress`, with the scores hidden that are correlated with a commanded one; for models that can hide scores."""
    edited, prototypes = regress(known, s, prototypes, values), list(prototypes)
    edited[:, correlated(known.scores, prototypes)] = HIDDEN
    edited[:, prototypes] = values
    return edited


def correlated(known: Tensor, prototypes: list[int]) -> Tensor:
    """Which prototypes are correlated with one of those beyond CORRELATED, themselves left out: known (N, m) -> bool
    (m,)."""
    centred = F.normalize(known - known.mean(0), dim=0)  # (N, m)
    related = (centred.T @ centred[:, prototypes]).abs().amax(1) > CORRELATED
    related[prototypes] = False
    return related


def hide_all(s: Tensor) -> Tensor:
    """Scores of the shape of s (B, m), all hidden."""
    return torch.full_like(s, HIDDEN)


def show_only(s: Tensor, prototypes: Sequence[int]) -> Tensor:
    """Scores (B, m) of which all but those of some prototypes are hidden."""
    hidden, prototypes = hide_all(s), list(prototypes)
    hidden[:, prototypes] = s[:, prototypes]
    return hidden


def most_probable(s: Tensor, known: Tensor) -> Tensor:
    """Each score at its most probable value given the others, by linear regression over known (N, m): s (B, m) -> (B,
    m)."""
    known, centred = known.to(s).double(), s.double() - known.to(s).double().mean(0)
    covariance = torch.cov(known.T)
    ridge = 1e-6 * covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(len(covariance), device=s.device)
    precision = torch.linalg.inv(covariance + ridge)
    return (s - centred @ precision / precision.diagonal()).to(s)


def stand_in(s: Tensor, known: Tensor, masked: bool) -> Tensor:
    """What each score (B, m) is replaced by where it is left out: hidden, or, for models that cannot hide it, its most
    probable value."""
    return hide_all(s) if masked else most_probable(s, known)


def leave_out(s: Tensor, prototypes: Sequence[int], known: Tensor, masked: bool) -> Tensor:
    """Scores (B, m) without each of Q prototypes in turn: (Q, B, m)."""
    left, instead = s.repeat(len(prototypes), 1, 1), stand_in(s, known, masked)
    for line, k in zip(left, prototypes):
        line[:, k] = instead[:, k]
    return left


OTHERS: dict[str, Callable[[KnownScores, Tensor, Sequence[int], Tensor], Tensor]] = {
    "transport": transport,
    "keep": keep,
    "joint": regress,
    "release": hide_correlated,
}
