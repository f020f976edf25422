"""Verification: whether a score tells two of one kind, such as one speaker, from two others."""

import numpy as np
from jax.typing import ArrayLike


def equal_error_rate(scores: ArrayLike, same: ArrayLike) -> float:
    """The rate of false alarms and of misses at the threshold where they are equal.

    Args:
      scores: [N] numbers of trials, larger for more alike.
      same: [N] bool, which trials are of the same.

    Returns:
      0 to 1, 0.5 for scores that say nothing; between two thresholds the rates are drawn as
      straight lines.

    Raises:
      ValueError: if shapes do not fit, a score is not finite, or all trials are of one kind.

    Example:
      >>> equal_error_rate([0.9, 0.8, 0.4, 0.5, 0.2, 0.1], [True, True, True, False, False, False])
      0.3333333333333333
    """
    misses, alarms = _rates(scores, same)
    # Misses rise and alarms fall along thresholds: the lines cross once.
    above = int(np.argmax(misses >= alarms))
    gap_before = alarms[above - 1] - misses[above - 1]
    gap_after = misses[above] - alarms[above]
    share = gap_before / (gap_before + gap_after)
    return float(misses[above - 1] + share * (misses[above] - misses[above - 1]))


def min_dcf(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    target_prior: float = 0.01,
    miss_cost: float = 1.0,
    false_alarm_cost: float = 1.0,
) -> float:
    """The least detection cost of any threshold, as NIST's speaker recognition evaluations have it.

    miss_cost * prior * misses + false_alarm_cost * (1 - prior) * false alarms, over what the better
    of saying always yes and always no would cost.

    Args:
      scores: [N] numbers of trials, larger for more alike.
      same: [N] bool, which trials are of the same.
      target_prior: share of trials of the same in use, above 0 and below 1.
      miss_cost: > 0.
      false_alarm_cost: > 0.

    Returns:
      0 to 1.

    Raises:
      ValueError: as `equal_error_rate`, or if an option is out of range.
    """
    if not 0 < target_prior < 1 or not miss_cost > 0 or not false_alarm_cost > 0:
        raise ValueError(
            f"target_prior {target_prior}, miss_cost {miss_cost} and false_alarm_cost "
            f"{false_alarm_cost}: expected a prior above 0 and below 1, and positive costs"
        )
    misses, alarms = _rates(scores, same)
    missing, alarming = miss_cost * target_prior, false_alarm_cost * (1 - target_prior)
    return float(np.min(missing * misses + alarming * alarms) / min(missing, alarming))


def _rates(scores: ArrayLike, same: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Rates of misses and of false alarms at each threshold, the lowest first: from none missed to
    all."""
    values, kinds = np.asarray(scores, np.float64), np.asarray(same)
    if values.ndim != 1 or values.shape != kinds.shape or kinds.dtype != bool:
        raise ValueError(
            f"scores have shape {values.shape}, same has {kinds.shape} of {kinds.dtype}: expected "
            "[N] numbers and [N] bool"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{np.sum(~np.isfinite(values))} scores are no finite numbers")
    if kinds.all() or not kinds.any():
        raise ValueError("all trials are of one kind: expected some of the same and some of others")
    thresholds = np.unique(values)
    positives, negatives = np.sort(values[kinds]), np.sort(values[~kinds])
    misses = np.searchsorted(positives, thresholds, side="left") / len(positives)
    alarms = 1 - np.searchsorted(negatives, thresholds, side="left") / len(negatives)
    return np.append(misses, 1.0), np.append(alarms, 0.0)
