import tomllib

from nightlab import tasks
from nightlab.proposer import Context
from nightlab.tuner.copy_texts import copy_texts

FILES = {"copy.toml": (tasks.folder("landing") / "copy.toml").read_text()}
IDEAS = {"library.toml": (tasks.folder("landing") / "library.toml").read_text()}


def context(number=0, *, files=FILES, ideas=IDEAS):
    return Context(files, "conversion", "higher", number, 7, ideas=ideas)


def test_it_puts_one_text_of_the_library_into_its_slot():
    found = copy_texts().propose(context())

    before, after = tomllib.loads(FILES["copy.toml"]), tomllib.loads(found.files["copy.toml"])
    changed = [slot for slot in before if before[slot] != after[slot]]
    assert len(changed) == 1
    assert after[changed[0]] in tomllib.loads(IDEAS["library.toml"])[changed[0]]
    assert found.files["copy.toml"].count("\n") == FILES["copy.toml"].count("\n")


def test_it_has_many_different_ideas():
    assert len({copy_texts().propose(context(number)).hypothesis for number in range(40)}) > 15


def test_without_a_library_or_a_copy_it_has_none():
    assert copy_texts().propose(context(ideas={})) is None
    assert copy_texts().propose(context(files={"train.py": "LR = 0.1"})) is None
    assert copy_texts().propose(context(ideas={"library.toml": "headline = ["})) is None


def test_a_text_with_quotes_is_written_so_that_it_reads_back():
    ideas = {"library.toml": "headline = ['She said \"yes\" \\ no']"}

    found = copy_texts().propose(context(ideas=ideas))

    assert tomllib.loads(found.files["copy.toml"])["headline"] == 'She said "yes" \\ no'
