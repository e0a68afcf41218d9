"""The judge: puts every labelled example into the prompt, asks the model, and counts the right answers.

    judge.py score PROMPT_JSON    accuracy over the examples in the folder NIGHTLAB_DATA

An example is a line of JSON: {"input": "...", "label": "billing"}. A label may be a list, any of which is right; in
place of a label, "pattern" is a regular expression that the whole answer must fit.

NIGHTLAB_MODEL names the model. One whose name begins with "claude" is asked at ANTHROPIC_BASE_URL with
ANTHROPIC_API_KEY, any other at OPENAI_BASE_URL (any server that speaks as OpenAI's does) with OPENAI_API_KEY. Every
answer is kept in NIGHTLAB_CACHE: to score the same prompt again costs nothing, and says the same. Not covered: a model
that changes behind its name; to ask it anew, empty .nightlab/cache.
"""

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

AT_ONCE = 8  # questions under way
PATIENCE = 480.0  # seconds for all questions, asked again where need be; the lab gives a judge 600
LONGEST = 60.0  # seconds for one answer
MOST_TOKENS = 2000  # of one answer; models that think need some
MOST_CHARACTERS = 20_000  # of a prompt
SETTINGS = {}  # goes along with every question: {"temperature": 0} is less chance, and some models refuse it


class Invalid(Exception):
    """A prompt that cannot be asked."""


class Model:
    """A model behind an endpoint, as the environment names it."""

    def __init__(self, environment):
        self.name = environment.get("NIGHTLAB_MODEL", "")
        if not self.name:
            sys.exit("NIGHTLAB_MODEL is not set; name the model to ask, as in: export NIGHTLAB_MODEL=gpt-5-mini")
        self.end = time.monotonic() + PATIENCE
        self.is_claude = self.name.startswith("claude")
        provider = "ANTHROPIC" if self.is_claude else "OPENAI"
        home = "https://api.anthropic.com" if self.is_claude else "https://api.openai.com/v1"
        url, self.key_name = environment.get(f"{provider}_BASE_URL"), f"{provider}_API_KEY"
        self.key = environment.get(self.key_name, "")
        if not self.key and not url:
            sys.exit(f"{self.key_name} is not set: export it, or {provider}_BASE_URL for a server that asks for no key")
        self.is_openai = not self.is_claude and not url
        self.url = (url or home).rstrip("/") + ("/v1/messages" if self.is_claude else "/chat/completions")

    def question(self, text):
        """What is sent."""
        most = "max_completion_tokens" if self.is_openai else "max_tokens"  # OpenAI itself refuses the older name
        return {"model": self.name, most: MOST_TOKENS, "messages": [{"role": "user", "content": text}], **SETTINGS}

    def headers(self):
        """What goes on top of it; the key only where there is one."""
        plain = {"Content-Type": "application/json"} | ({"anthropic-version": "2023-06-01"} if self.is_claude else {})
        if not self.key:
            return plain
        return plain | ({"x-api-key": self.key} if self.is_claude else {"Authorization": f"Bearer {self.key}"})

    def answer(self, text):
        """The answer and its tokens; asked again where the trouble passes: no connection, too many, overloaded."""
        wait = 0.5
        while True:
            try:
                return self.read(self.sent(text))
            except urllib.error.HTTPError as refusal:
                with refusal:
                    trouble, said = f"it answered {refusal.code}", refusal.read(2000).decode("utf-8", "replace")
                    after = refusal.headers.get("Retry-After", "")
                if refusal.code in (401, 403):
                    sys.exit(f"{self.url} refuses the key ({refusal.code}); see {self.key_name}")
                if refusal.code < 500 and refusal.code not in (408, 409, 429):
                    why = " ".join(said.split())[:300]
                    sys.exit(self.without_key(f"{self.url} refuses the question ({refusal.code}): {why}"))
                wait = max(wait, float(after)) if re.fullmatch(r"\d{1,4}(\.\d+)?", after) else wait
            except (OSError, http.client.HTTPException, KeyError, TypeError, ValueError, IndexError) as error:
                trouble = f"{type(error).__name__}: {error}"
            if time.monotonic() + wait > self.end:
                sys.exit(self.without_key(f"{self.url} gives no answer ({trouble}); what it said is kept: try later"))
            time.sleep(wait * random.uniform(0.7, 1.0))
            wait = min(wait * 2, 30.0)

    def sent(self, text):
        """One question over HTTP; the answer's JSON."""
        request = urllib.request.Request(self.url, json.dumps(self.question(text)).encode(), self.headers())
        with urllib.request.urlopen(request, timeout=LONGEST) as response:
            return json.loads(response.read(1 << 20))

    def read(self, said):
        """Text and tokens of an answer; a refusal to say anything is an empty text."""
        used = said.get("usage") or {}
        if self.is_claude:
            text = "".join(part.get("text", "") for part in said["content"])
            return text, used.get("input_tokens", 0) + used.get("output_tokens", 0)
        return said["choices"][0]["message"].get("content") or "", used.get("total_tokens", 0)

    def without_key(self, text):
        """A message that may be shown: some servers repeat the key."""
        return text.replace(self.key, "***") if self.key else text


class Answers:
    """What the model has said, by question; the first answer stays, also between two judges at once."""

    def __init__(self, path):
        self.store = sqlite3.connect(path, timeout=60, isolation_level=None)
        columns = "question TEXT PRIMARY KEY, answer TEXT, tokens INTEGER"
        self.store.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns})")

    def get(self, key):
        """Answer and tokens, or None."""
        return self.store.execute("SELECT answer, tokens FROM answers WHERE question = ?", (key,)).fetchone()

    def keep(self, key, answer, tokens):
        """Keep an answer, unless there is one; the one that counts."""
        self.store.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (key, answer, tokens))
        return self.get(key)


def examples(folder):
    """The labelled examples of a folder's .jsonl files, in order."""
    found = []
    for path in sorted(Path(folder).glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                found.append(example(line, f"{path.name} line {number}"))
    if not found:
        sys.exit(f'{folder} holds no example; put .jsonl files there, with lines as {{"input": "...", "label": "..."}}')
    return found


def example(line, where):
    """One example, known to have what it needs."""
    with contextlib.suppress(ValueError):
        one = json.loads(line)
        if isinstance(one, dict) and isinstance(one.get("input"), str) and ("label" in one or "pattern" in one):
            return one
    sys.exit(f'{where} is no example; write {{"input": "...", "label": "..."}}, or a "pattern" in place of the label')


def is_right(one, answer):
    """Whether an answer is right by the example's own rule."""
    if "pattern" in one:
        return re.fullmatch(one["pattern"], answer.strip(), re.DOTALL) is not None
    labels = one["label"] if isinstance(one["label"], list) else [one["label"]]
    return bare(answer) in map(bare, labels)


def bare(text):
    """A text without its case and without marks around it."""
    return str(text).strip(" \t\r\n.,:;!\"'`*()[]").casefold()


def template(path):
    """The prompt of an artifact."""
    said = json.loads(Path(path).read_text(encoding="utf-8"))
    prompt = said.get("prompt") if isinstance(said, dict) else None
    if not isinstance(prompt, str) or "{input}" not in prompt:
        raise Invalid("the prompt holds no {input}, where each message is to stand")
    if len(prompt) > MOST_CHARACTERS:
        raise Invalid(f"the prompt holds {len(prompt):,} characters; at most {MOST_CHARACTERS:,} are allowed")
    return prompt


def asked(model, texts, answers):
    """The answer and tokens to each text: from what is kept, else from the model, a few at once."""
    keys = {text: hashlib.sha256(json.dumps([model.url, model.question(text)]).encode()).hexdigest() for text in texts}
    said = {text: kept for text, key in keys.items() if (kept := answers.get(key))}
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        under_way = {pool.submit(model.answer, text): text for text in keys if text not in said}
        for done in as_completed(under_way):
            text = under_way[done]
            said[text] = answers.keep(keys[text], *done.result())
    finally:  # after the first that cannot be asked, nobody waits for the others
        pool.shutdown(cancel_futures=True)
    return [said[text] for text in texts]


def score(path, folder):
    """The share of right answers, and each example's own."""
    prompt, labelled, model = template(path), examples(folder), Model(os.environ)
    texts = [prompt.replace("{input}", one["input"]) for one in labelled]
    said = asked(model, texts, Answers(Path(os.environ["NIGHTLAB_CACHE"], "answers.sqlite")))
    right = [float(is_right(one, answer)) for one, (answer, _) in zip(labelled, said)]
    tokens = sum(tokens for _, tokens in said) / len(said)
    return {"value": sum(right) / len(right), "per_example": right, "secondary": {"tokens_per_example": tokens}}


if __name__ == "__main__":
    if sys.argv[1] != "score":
        sys.exit(f"{sys.argv[1]!r} is not score")
    try:
        print(json.dumps(score(sys.argv[2], os.environ["NIGHTLAB_DATA"])))
    except Invalid as reason:
        sys.exit(f"invalid: {reason}")
