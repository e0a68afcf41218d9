"""Serve: which version visitors are shown, decided by value from what a run says of both its sides."""

from __future__ import annotations

from collections.abc import Sequence

from nightlab.decide import Evidence
from nightlab.live.labels import ALPHA
from nightlab.values import Contrast, Decision


class Serve:
    """Serve what a sequential test found better; with enough history, whatever is expected to gain more than it loses.

    What is served is no claim: a wrong choice between two that are nearly alike costs next to nothing. What may be
    *said* is decided elsewhere, over the whole stream of experiments.
    """

    name = "serve"
    baseline_runs = 1

    def decide(self, evidence: Evidence) -> Decision:
        """Keep or discard by the candidate's own run, which carried both sides."""
        if len(evidence.incumbent) == 0:
            return Decision("more", "incumbent", None, None, None, "the champion has not been seen alone yet")
        if evidence.contrast is None:
            return Decision("more", "candidate", None, None, None, "it has not been shown to anybody yet")
        return decided(evidence.contrast)

    def successor(self, candidate_runs: Sequence[float]) -> list[float]:
        """The rate it was served at; it was selected, so what is reported is held against the holdout."""
        return list(candidate_runs[-1:])


def decided(seen: Contrast) -> Decision:
    """What to serve from now on."""
    bar, z = 1 / ALPHA, seen.gain / seen.stderr if seen.stderr > 0 else None
    if seen.worse >= bar:
        return Decision("discard", None, seen.gain, seen.stderr, z, f"it does harm: e {seen.worse:.3g} >= {bar:g}")
    if seen.loss is not None:
        serves = seen.gain > seen.loss
        words = f"it is expected to {'gain' if seen.gain > 0 else 'lose'} {abs(seen.gain):.3g}, and to cost at most "
        words += f"{seen.loss:.3g} where it does harm (empirical Bayes)"
    else:
        serves = seen.better >= bar
        words = f"e {seen.better:.3g} {'>=' if serves else '<'} {bar:g} against the champion"
    return Decision("keep" if serves else "discard", None, seen.gain, seen.stderr, z, words)
