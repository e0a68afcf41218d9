"""A follower: a mirror beside a night, a process of its own, which follows the ledger and outlives nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Self

from nightlab.mirrors.copying import folder_of
from nightlab.place import Place
from nightlab.words import harmless

_PATIENCE = 60.0
_LITTLE_PATIENCE = 2.0  # the night was ended; what is left is sent another time


class Follower:
    """Mirrors a study while it runs. Use as a context around a night; it ends with what is left and the summary.

    The process sees that the night is over by its standard input, so it ends also where the night was killed.
    """

    def __init__(self, place: Place, spec: str, say: Callable[[str], None]) -> None:
        self._place, self._spec, self._say = place, spec, say
        self._name = spec.partition(":")[0]

    def __enter__(self) -> Self:
        folder = folder_of(self._place)
        folder.mkdir(exist_ok=True)
        words = ["-P", "-m", "nightlab", "-C", str(self._place.root), "mirror", self._spec, "--follow"]
        with (folder / f"{self._name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *words, "--study", self._place.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the lab
            )
        self._listener = threading.Thread(target=self._listen, name="mirror", daemon=True)
        self._listener.start()
        return self

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._say(harmless(line.rstrip("\n")))

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(_LITTLE_PATIENCE if kind else _PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._listener.join(1.0)
        if code:
            log = folder_of(self._place) / f"{self._name}.log"
            self._say(
                f"mirror {self._name}: not all was sent (see {log}); send the rest by: nightlab mirror {self._name}"
            )
