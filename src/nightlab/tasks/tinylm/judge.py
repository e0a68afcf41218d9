"""The judge: hands out the training text, asks about text nobody was given, and scores the answers in bits per byte.

    judge.py give OUT            what a run may learn from: exactly NIGHTLAB_BUDGET bytes, drawn by NIGHTLAB_SEED
    judge.py ask OUT             the contexts to predict from, drawn by NIGHTLAB_SEED once the code is frozen; a few of
                                 them once more in OUT/again, for a second jail that is told of no others
    judge.py score PREDICTIONS   bits per byte of the predictions for the contexts of the same NIGHTLAB_SEED

    --context N                  how many bytes are shown before each one to predict
    --give N                     give this many bytes, or all there are, whatever NIGHTLAB_BUDGET says

The text is the source of Python's standard library: always there, and written by many hands. The held-out sides are
whole packages that a training script has no need of; [judge] hide in nightlab.toml keeps them from every run. The other
libraries stay in sight, and some know Python's source by heart; so all bytes are renamed, by a permutation that is drawn
once for a study and told to nobody. To a model that learns from what it is given, one name is as good as another.
Not covered: a run that breaks this cipher first. A file text.toml beside this one may name other packages, or a text of
your own, of which every tenth document is dealt to each side; near copies then land where they will. NIGHTLAB_CACHE
keeps the sides and the secret between calls.
"""

import argparse
import contextlib
import functools
import json
import os
import random
import sys
import sysconfig
import tempfile
import tomllib
import zlib
from pathlib import Path

import numpy as np

CONTEXT = 32  # bytes shown before each byte to predict
STRIDE = 97  # bytes between two answers, or more for a longer context: no context shows another's answer
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
MOST = 10_000_000  # bytes held out on one side; more make no score surer that matters
SHARE = 10  # of a text of your own every tenth document is held out for either side
DOCUMENT = 100_000  # bytes; longer ones are dealt in pieces of this size
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


@functools.cache
def settings() -> dict:
    """What text.toml beside this file says: source, column, validation, sealed; nothing where there is none."""
    path = Path(__file__).with_name("text.toml")
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def side(path: str) -> str:
    """Where a file of the standard library belongs: train, validation or sealed."""
    package, said = path.partition("/")[0].removesuffix(".py"), settings()
    return next((name for name, held in HELD_OUT.items() if package in said.get(name, held)), "train")


def dealt(document: bytes) -> str:
    """Where a document of your own belongs; by its content, so that its exact copies stay with it."""
    return {0: "validation", 1: "sealed"}.get(zlib.crc32(document) % SHARE, "train")


def pieces(name: str):
    """The documents of one side, in an order that is the same everywhere."""
    source = settings().get("source")
    if source:
        yield from (piece for piece in documents(Path(source).expanduser()) if dealt(piece) == name)
    else:
        root = Path(sysconfig.get_path("stdlib"))
        yield from (file.read_bytes() for file in files(root) if side(file.relative_to(root).as_posix()) == name)


def documents(source: Path):
    """The documents of a folder or a file: each row of a parquet file, and of any other the pieces that are text."""
    if not source.exists():
        sys.exit(f"text.toml names the source {str(source)!r}, and there is nothing; write a folder or a file")
    for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(source).parts):
            continue
        if path.suffix == ".parquet":
            yield from rows(path, settings().get("column", "text"))
        else:
            with path.open("rb") as file:
                yield from (piece for piece in iter(lambda: file.read(DOCUMENT), b"") if b"\0" not in piece)


def rows(path: Path, column: str):
    """The texts of one column of a parquet file."""
    try:
        from pyarrow import parquet
    except ImportError:
        sys.exit(f"{path} can only be read with pyarrow: pip install pyarrow")
    for batch in parquet.ParquetFile(path).iter_batches(columns=[column]):
        yield from (row.encode() for row in batch.column(0).to_pylist() if row)


def text(name: str) -> Path:
    """One side of the text as one file; built on first use, and only ever seen whole."""
    cache = Path(os.environ["NIGHTLAB_CACHE"])
    path = cache / f"{name}.bin"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=cache) as half_done:
            with Path(half_done, name).open("wb") as file:
                for number, piece in enumerate(pieces(name)):
                    file.write(b"\n" * (number > 0) + piece)
                    if name != "train" and file.tell() > MOST:
                        break
                size = file.tell()
            if size < ENOUGH:
                where = settings().get("source") or f"{sysconfig.get_path('stdlib')} (use a full Python)"
                sys.exit(f"{size:,} bytes of {name} text were found where {ENOUGH:,} are needed, in {where}")
            os.replace(file.name, path)
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


def questions(name: str, seed: int, context: int = CONTEXT) -> tuple[np.ndarray, np.ndarray]:
    """The contexts [n, context] and the bytes that follow them [n]: a grid over the whole side, its start drawn."""
    body = np.frombuffer(text(name).read_bytes().translate(names()), dtype=np.uint8)
    stride = max(STRIDE, context + 1)
    windows = np.lib.stride_tricks.sliding_window_view(body, context + 1)
    windows = windows[random.Random(seed).randrange(stride) :: stride]
    return windows[:, :context], windows[:, context]


def repeated(examples: int, name: str, seed: int) -> np.ndarray:
    """Which examples are asked twice: drawn by the secret as well, since a run may have guessed the seed."""
    return np.array(random.Random(f"{secret()} {name} {seed}").sample(range(examples), min(AGAIN, examples)))


def ask(out: Path, name: str, seed: int, context: int) -> None:
    """Write down the contexts, without the answers."""
    contexts = questions(name, seed, context)[0]
    np.save(out / "contexts.npy", contexts)
    (out / "again").mkdir()
    np.save(out / "again" / "contexts.npy", contexts[repeated(len(contexts), name, seed)])


def score(folder: Path, name: str, seed: int, context: int) -> dict[str, object]:
    """Bits per byte of the predictions, and what each example cost."""
    answers = questions(name, seed, context)[1]
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
    parser = argparse.ArgumentParser(description="Give text, ask about other text, score the answers.")
    parser.add_argument("--context", type=int, default=CONTEXT)
    parser.add_argument("--give", type=int, default=0)
    parser.add_argument("verb", choices=("give", "ask", "score"))
    parser.add_argument("folder", type=Path)
    said = parser.parse_args()
    seed, data = int(os.environ["NIGHTLAB_SEED"]), os.environ.get("NIGHTLAB_DATA", "validation")
    if said.verb == "give":
        budget = min(said.give, text("train").stat().st_size // CHUNK * CHUNK)
        give(said.folder, seed, budget or int(float(os.environ["NIGHTLAB_BUDGET"])))
    elif said.verb == "ask":
        ask(said.folder, data, seed, said.context)
    else:
        print(json.dumps(score(said.folder, data, seed, said.context)))


if __name__ == "__main__":
    try:
        main()
    except Invalid as reason:
        sys.exit(f"invalid: {reason}")
