"""What can go wrong, drawn as a tree.

NightlabError                    everything below; its text says what happened, with which value, and what to do next
├── BadTask                      nightlab.toml or the folder does not describe a task
│   └── Unscored                 the judge gave no score; where it gave the baseline one, it is the candidate's fault
├── BadRepository                git is missing, or the repository cannot carry a study
├── BadLedger                    the ledger cannot be read by this version
├── BadPlugin                    a name that leads to no proposer, executor or evaluator
├── BadChange                    what somebody wants to try is no change, touches what is frozen, or conflicts
├── StudyBusy                    another lab holds this study
├── StudyStuck                   the study cannot go on until a person acts: a full disk, a broken baseline
├── NotFound                     no such study, experiment or file
└── Invalid                      a run whose outcome may not be believed; becomes a recorded status, never ends a study

Exit codes: 2 for a mistake in what was asked (BadTask, BadRepository, BadPlugin, BadChange, NotFound),
3 for StudyBusy, 4 for StudyStuck, 5 for BadLedger. 130 is a second Ctrl-C or a terminate signal.
"""

from __future__ import annotations


class NightlabError(Exception):
    """Anything Nightlab refuses to do, in a sentence a user can act on."""

    exit_code = 2


class BadTask(NightlabError):
    """The task file, or the folder it stands in, does not describe a task."""


class Unscored(BadTask):
    """The judge crashed, hung, said nothing of use or contradicted itself when asked for a score."""


class BadRepository(NightlabError):
    """Git is missing, or the repository cannot carry a study."""


class BadPlugin(NightlabError):
    """A name leads to no proposer, executor or evaluator."""


class NotFound(NightlabError):
    """There is no such study, experiment or file."""


class BadChange(NightlabError):
    """What somebody wants to try is no change, touches what is frozen, or conflicts with the incumbent."""


class StudyBusy(NightlabError):
    """Another lab holds this study."""

    exit_code = 3


class StudyStuck(NightlabError):
    """The study cannot go on until a person acts; nothing recorded is lost."""

    exit_code = 4


class BadLedger(NightlabError):
    """The ledger cannot be read by this version of Nightlab."""

    exit_code = 5


class Invalid(NightlabError):
    """A run whose outcome may not be believed; the loop records the reason as a status."""
