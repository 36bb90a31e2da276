"""Whether a model may be promoted."""

from dataclasses import dataclass

from components.evaluation.evaluation import Evaluation, compare
from components.evaluation.significance import Comparison

METRIC = "ndcg@10"
LEVEL = 0.05


@dataclass(frozen=True)
class Decision:
    """The gate's answer, with one sentence for each comparison it rests on."""

    passed: bool
    reasons: tuple[str, ...]


def decide(candidate: Evaluation, base: Evaluation, champion: Evaluation | None) -> Decision:
    """Pass what is significantly better than its base and not significantly worse than the champion.

    Both by nDCG@10, paired bootstrap, two-sided p < 0.05. Each condition must hold, so no correction for two
    tests is due. What was evaluated on another collection cannot be compared, and does not pass.

    Args:
        champion: the model that serves now, evaluated on the same collection; None where there is none.
    """
    verdicts = [_better_than_base(candidate, base)]
    if champion is None:
        verdicts.append((True, "there is no champion yet to compare with"))
    else:
        verdicts.append(_no_worse_than_champion(candidate, champion))
    return Decision(all(passed for passed, _ in verdicts), tuple(reason for _, reason in verdicts))


def _better_than_base(candidate: Evaluation, base: Evaluation) -> tuple[bool, str]:
    if candidate.digest != base.digest:
        return False, _not_comparable(candidate, base, "base")
    found = compare(candidate, base, METRIC)
    if found.p_value >= LEVEL:
        seen = (found.difference.high - found.difference.low) / 2
        more = f"; these queries show differences from about {seen:.3f} on, more of them smaller ones"
        return False, (
            f"not significantly better than the base: {_figures(candidate, base, found)}"
            f"{more if found.difference.mean > 0 else ''}"
        )
    if found.difference.mean < 0:
        return False, f"significantly worse than the base: {_figures(candidate, base, found)}"
    return True, f"significantly better than the base: {_figures(candidate, base, found)}"


def _no_worse_than_champion(candidate: Evaluation, champion: Evaluation) -> tuple[bool, str]:
    if candidate.digest != champion.digest:
        return False, _not_comparable(candidate, champion, "champion")
    found = compare(candidate, champion, METRIC)
    if found.p_value < LEVEL and found.difference.mean < 0:
        return False, f"significantly worse than the champion: {_figures(candidate, champion, found)}"
    return True, f"not significantly worse than the champion: {_figures(candidate, champion, found)}"


def _figures(candidate: Evaluation, other: Evaluation, found: Comparison) -> str:
    difference = found.difference
    return (
        f"{METRIC} {candidate.metrics[METRIC].mean:.4f} against {other.metrics[METRIC].mean:.4f}, difference "
        f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}], p = {found.p_value:.4f}, "
        f"{candidate.queries} queries over {candidate.corpus_size:,} documents"
    )


def _not_comparable(candidate: Evaluation, other: Evaluation, name: str) -> str:
    return (
        f"the {name} was evaluated on another collection ({other.digest[:12]}) than the candidate "
        f"({candidate.digest[:12]}): evaluate both on the same documents, queries and judgements"
    )
