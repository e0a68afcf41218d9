"""The judge: hands out the training text, asks about text nobody was given, and scores the answers in bits per byte.

    judge.py give OUT            what a run may learn from: exactly NIGHTLAB_BUDGET bytes, drawn by NIGHTLAB_SEED
    judge.py ask OUT             the contexts to predict from, drawn by NIGHTLAB_SEED once the code is frozen; a few of
                                 them once more in OUT/again, for a second jail that is told of no others
    judge.py score PREDICTIONS   bits per byte of the predictions for the contexts of the same NIGHTLAB_SEED

The text is the source of Python's standard library: always there, and written by many hands. The held-out sides are
whole packages that a training script has no need of; [judge] hide in nightlab.toml keeps them from every run. The other
libraries stay in sight, and some know Python's source by heart; so all bytes are renamed, by a permutation that is drawn
once for a study and told to nobody. To a model that learns from what it is given, one name is as good as another.
Not covered: a run that breaks this cipher first. NIGHTLAB_CACHE keeps the sides and the secret between calls.
"""

import contextlib
import json
import os
import random
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np

CONTEXT = 32  # bytes shown before each byte to predict
STRIDE = 97  # bytes between two answers; more than CONTEXT, so that no context shows another's answer
CHUNK = 4096  # bytes of training text drawn in one piece
# None of them is loaded by numpy or by what scripts import beside it, every Python since 3.11 has them, and no common
# package carries a copy (setuptools has one of distutils and tarfile, black one of lib2to3). [judge] hide says the same.
HELD_OUT = {
    "validation": {"_pydecimal", "asyncio", "http", "turtle"},
    "sealed": {  # not _pyio: the compiled io module says much of it in its docstrings
        *("doctest", "imaplib", "mailbox", "optparse", "pdb", "pickletools", "pydoc", "wsgiref", "xml", "xmlrpc"),
    },
}
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
TABLES = {"encodings", "pydoc_data"}  # printed by machines, many nearly alike: they would reward learning by heart
ENOUGH = 500_000  # bytes on one side, below which a score would be mostly luck
AGAIN = 256  # contexts asked a second time, by themselves
TOLERANCE = 1e-3  # how far from 1 the logarithm of the sum of the probabilities may be


class Invalid(Exception):
    """Predictions that may not be believed."""


def files(root: Path) -> list[Path]:
    """The Python files of the standard library that people wrote, in an order that is the same everywhere."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(set(below) - LEFT_OUT - TABLES)
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def side(path: str) -> str:
    """Where a file belongs: train, validation or sealed."""
    package = path.partition("/")[0].removesuffix(".py")
    return next((name for name, packages in HELD_OUT.items() if package in packages), "train")


def text(name: str) -> Path:
    """One side of the text as one file; built on first use, and only ever seen whole."""
    cache = Path(os.environ["NIGHTLAB_CACHE"])
    path = cache / f"{name}.bin"
    if not path.exists():
        root = Path(sysconfig.get_path("stdlib"))
        dealt = b"\n".join(file.read_bytes() for file in files(root) if side(file.relative_to(root).as_posix()) == name)
        if len(dealt) < ENOUGH:
            sys.exit(f"{root} holds {len(dealt):,} bytes of {name} source, {ENOUGH:,} are needed: use a full Python")
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as half_done:
            half_done.write(dealt)
        os.replace(half_done.name, path)
    return path


def secret() -> str:
    """What no run knows, drawn once for a study."""
    path = Path(os.environ["NIGHTLAB_CACHE"], "secret")
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as half_done:
            half_done.write(os.urandom(16))
        with contextlib.suppress(FileExistsError):  # another judge was faster: its secret holds
            os.link(half_done.name, path)
        os.unlink(half_done.name)
    return path.read_bytes().hex()


def names() -> bytes:
    """What each of the 256 bytes is called in this study."""
    return bytes(random.Random(f"{secret()} names").sample(range(256), 256))


def give(out: Path, seed: int, budget: int) -> None:
    """Draw the training text: chunks in a random order, none twice."""
    path = text("train")
    chunks, renamed = path.stat().st_size // CHUNK, names()
    needed = -(-budget // CHUNK)
    if needed > chunks:
        sys.exit(f"a budget of {budget:,} bytes is more than the {chunks * CHUNK:,} bytes of training text")
    with path.open("rb") as source, (out / "text.bin").open("wb") as given:
        for chunk in random.Random(seed).sample(range(chunks), needed):
            source.seek(chunk * CHUNK)
            given.write(source.read(min(CHUNK, budget - given.tell())).translate(renamed))


def questions(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The contexts [n, CONTEXT] and the bytes that follow them [n]: a grid over the whole side, its start drawn."""
    body = np.frombuffer(text(name).read_bytes().translate(names()), dtype=np.uint8)
    start = CONTEXT + random.Random(seed).randrange(STRIDE)
    windows = np.lib.stride_tricks.sliding_window_view(body, CONTEXT + 1)[start - CONTEXT :: STRIDE]
    return windows[:, :CONTEXT], windows[:, CONTEXT]


def repeated(examples: int, name: str, seed: int) -> np.ndarray:
    """Which examples are asked twice: drawn by the secret as well, since a run may have guessed the seed."""
    return np.array(random.Random(f"{secret()} {name} {seed}").sample(range(examples), min(AGAIN, examples)))


def ask(out: Path, name: str, seed: int) -> None:
    """Write down the contexts, without the answers."""
    contexts = questions(name, seed)[0]
    np.save(out / "contexts.npy", contexts)
    (out / "again").mkdir()
    np.save(out / "again" / "contexts.npy", contexts[repeated(len(contexts), name, seed)])


def score(folder: Path, name: str, seed: int) -> dict[str, object]:
    """Bits per byte of the predictions, and what each example cost."""
    answers = questions(name, seed)[1]
    predicted = read(folder / "log_probabilities.npy", len(answers))
    bits, accuracy = believed(predicted, answers)
    twice = repeated(len(answers), name, seed)
    alone(predicted[twice], read(folder / "again" / "log_probabilities.npy", len(twice)))
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:  # never into a file that was already there
        np.save(file, bits)
    os.replace(file.name, folder / "per_example.npy")
    return {"value": float(bits.mean()), "per_example": "per_example.npy", "secondary": {"accuracy": accuracy}}


def alone(among: np.ndarray, by_itself: np.ndarray) -> None:
    """Each context is judged by itself: its answer may not depend on which others were asked."""
    both = among != by_itself  # equal where both are minus infinity
    worst = np.abs(among[both] - by_itself[both]).max(initial=0.0)
    if not worst < TOLERANCE:
        raise Invalid(
            f"a context was answered otherwise when fewer others were asked (by {worst:.3g}): predict must not learn "
            "from other contexts, nor draw by chance"
        )


def read(path: Path, examples: int) -> np.ndarray:
    """The predictions, once they are known to be plain numbers of the right shape."""
    if path.is_symlink() or not path.is_file():
        raise Invalid(f"there is no file {path.name}")
    try:
        predicted = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a stranger's file: whatever is wrong with it, it is wrong
        raise Invalid(f"{path.name} is not an array of plain numbers ({error})") from None
    if not isinstance(predicted, np.ndarray) or predicted.dtype not in (np.float32, np.float64):
        raise Invalid(f"{path.name} must hold one array of float32 or float64")
    if predicted.shape != (examples, 256):
        raise Invalid(f"the shape is {predicted.shape}, where {examples} contexts ask for ({examples}, 256)")
    return np.asarray(predicted)


def believed(predicted: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, float]:
    """Bits of every answer and the share guessed right, if these are the logarithms of probabilities."""
    if np.isnan(predicted).any() or predicted.max() > TOLERANCE:
        raise Invalid("a log-probability must be a number of at most 0")
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(predicted).sum(axis=1, dtype=np.float64))
    worst = total[np.abs(total).argmax()]
    if not abs(worst) < TOLERANCE:
        raise Invalid(f"the probabilities of an example must sum to 1, and the logarithm of one sum is {worst:.4g}")
    bits = (total - predicted[np.arange(len(answers)), answers]) / np.log(2)
    if not np.isfinite(bits).all():
        raise Invalid("a byte that came was given no probability at all")
    return bits, float((predicted.argmax(axis=1) == answers).mean())


def main() -> None:
    """Do as the command line says."""
    verb, folder = sys.argv[1], Path(sys.argv[2])
    seed, data = int(os.environ["NIGHTLAB_SEED"]), os.environ.get("NIGHTLAB_DATA", "validation")
    if verb == "give":
        give(folder, seed, int(float(os.environ["NIGHTLAB_BUDGET"])))
    elif verb == "ask":
        ask(folder, data, seed)
    elif verb == "score":
        print(json.dumps(score(folder, data, seed)))
    else:
        sys.exit(f"{verb!r} is none of give, ask, score")


if __name__ == "__main__":
    try:
        main()
    except Invalid as reason:
        sys.exit(f"invalid: {reason}")
