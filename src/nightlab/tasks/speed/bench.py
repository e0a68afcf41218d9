"""Check solution.py against the reference on words drawn by the seed, and print how long it takes beside it. Frozen.

Both are timed in turn, several times, in CPU seconds, and the shortest times are compared, so that a busy machine does
not show. Each round writes the same words in other letters: equally much work, and nothing to remember from before.
"""

import gc
import os
import random
import string
import time

import reference
import solution

VOCABULARY, WORDS, ROUNDS = 120, 20, 7


def drawn(rng):
    """A vocabulary of made-up words of a few syllables, and some of them misspelt."""
    syllables = [a + b for a in "bdfgklmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er")]
    vocabulary = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(VOCABULARY)]
    return [misspelt(word, rng) for word in rng.choices(vocabulary, k=WORDS)], vocabulary


def misspelt(word, rng):
    """The word with up to three slips: a letter left out, doubled or replaced."""
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(word))
        word = word[:at] + rng.choice(["", word[at] * 2, rng.choice(string.ascii_lowercase)]) + word[at + 1 :]
        word = word or "a"
    return word


def timed(function, words, vocabulary):
    """What the function answers, and the CPU seconds it took."""
    start = time.process_time()
    answer = function(words, vocabulary)
    return answer, time.process_time() - start


def explained(words, answer, expected):
    """Where the answer is first wrong, in words."""
    if not isinstance(answer, list) or len(answer) != len(words):
        return f"{len(words)} words need a list of {len(words)} answers"
    word, ours, right = next(found for found in zip(words, answer, expected, strict=True) if found[1] != found[2])
    return f"{word!r} became {ours!r}, and should have become {right!r}"


rng = random.Random(int(os.environ.get("NIGHTLAB_SEED", 0)))
words, vocabulary = drawn(rng)
ours, theirs = [], []
gc.disable()
for _ in range(ROUNDS):
    letters = str.maketrans(string.ascii_lowercase, "".join(rng.sample(string.ascii_lowercase, 26)))
    asked = [word.translate(letters) for word in words]
    known = [word.translate(letters) for word in vocabulary]
    expected, seconds = timed(reference.correct, list(asked), list(known))
    theirs.append(seconds)
    answer, seconds = timed(solution.correct, list(asked), list(known))
    ours.append(seconds)
    if answer != expected:
        raise SystemExit(f"solution.py is wrong: {explained(asked, answer, expected)}")

print(f"relative_time: {min(ours) / min(theirs):.4f}")
