"""An attribute as all scores together tell it: a linear read-out of them, which is set like the score of one prototype.

Several prototypes tell a colour, each at its own place, and the colours in the middle none of them tells at an end of
its range. Learnt from labelled images; groups of prototypes (analysis/measures/groups.py) are what there is without.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from analysis.edits import Missing
from analysis.measures.scores import KnownScores, quantiles, transport

PENALTY = 0.01  # inverse strength of the regression's, as of the reader of prototypes
RELATED = 3.0  # standard errors, as of `transport`: a read-out is told by many scores, few of those at chance matter
CLOSER = 3  # steps to the commanded read-out, since each may reach the end of a score's range


class ReadOut(NamedTuple):
    """weights (m,) and offset: the read-out of scores s is s @ weights + offset, above 0 where the attribute is likely;
    absent, present: its medians over known images without and with the attribute; known: their scores, the read-out as
    one more (N, m + 1)."""

    weights: Tensor
    offset: Tensor
    absent: float
    present: float
    known: KnownScores

    def of(self, s: Tensor) -> Tensor:
        """Scores (B, m) -> (B,)."""
        return s @ self.weights + self.offset

    def set(self, s: Tensor, amount: float) -> Tensor:
        """Scores (B, m) edited so that the read-out is `absent` for an amount of 0 and `present` for 1, all others
        carried along (`transport`), to one of the alternatives below one half: (B, m).

        What the carried scores lack of the read-out is made up along the change itself, at most once more of it.
        """
        own, value = torch.cat([s, self.of(s)[:, None]], dim=1), self.value(amount)
        target = s.new_full((len(s), 1), value)
        edited = transport(self.known, own, [s.shape[1]], target, RELATED, choose=amount < 0.5)[:, :-1]
        change, (lowest, highest) = edited - s, self.known.range[:-1].T
        lowest, highest = torch.minimum(lowest, s), torch.maximum(highest, s)
        slope = change @ self.weights
        for _ in range(CLOSER):
            lack = torch.where(slope == 0, 0, (value - self.of(edited)) / slope).clamp(-1, 1)
            edited = (edited + lack[:, None] * change).clamp(lowest, highest)
        return edited

    def value(self, amount: float) -> float:
        """Of the read-out, for an amount of the attribute; within the range of the known ones."""
        low, high = self.known.range[-1].tolist()
        return min(max(self.absent + amount * (self.present - self.absent), low), high)

    def missing(self, amount: float) -> Missing:
        """What is missing of an amount in scores that are found, as a share of the read-out's range; more of what is
        asked for is not missing."""
        low, high = quantiles(self.known.scores[:, -1:])[0]
        span, sign = (high - low).clamp(min=1e-6), 1 if amount > 0.5 else -1
        return lambda found: ((self.value(amount) - self.of(found)) * sign / span).clamp(min=0)


def read_out(known: KnownScores, labels: np.ndarray) -> ReadOut:
    """Of one attribute, learnt by logistic regression from known scores (N, m) and labels (N,), NaN where unknown; both
    classes must be there."""
    told = ~np.isnan(labels)
    scores, deviation = known.scores, known.deviation
    standard = (scores / deviation).cpu().numpy()[told]
    fit = LogisticRegression(C=PENALTY, max_iter=2000).fit(standard - (mean := standard.mean(0)), labels[told] > 0)
    weights = torch.from_numpy(fit.coef_[0]).to(scores) / deviation
    offset = scores.new_tensor(float(fit.intercept_[0] - fit.coef_[0] @ mean))
    values = scores @ weights + offset
    absent, present = (values[torch.from_numpy(labels == label).to(values.device)].median().item() for label in (0, 1))
    return ReadOut(weights, offset, absent, present, known.beside(values))
