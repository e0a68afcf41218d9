"""The tuner: the embedded proposer. It turns constants and edits source from a catalogue; no model is used."""

from __future__ import annotations

from nightlab.proposer import Proposer


def arms() -> tuple[Proposer, ...]:
    """The seven ways it has ideas. Its parser and sampler are loaded here, or later, never on import."""
    from nightlab.tuner.asked import Asked
    from nightlab.tuner.catalogue import catalogue
    from nightlab.tuner.constants import Constants
    from nightlab.tuner.copy_texts import copy_texts
    from nightlab.tuner.delete import delete
    from nightlab.tuner.pairs import Pairs
    from nightlab.tuner.waves import Waves

    return (Constants(), catalogue(), delete(), Pairs(), Waves(), Asked(), copy_texts())
