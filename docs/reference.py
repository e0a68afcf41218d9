"""Make the pages that can be read off the code: `make docs` (docs/task.md in part, docs/commands.md whole).

What a key or an option means stands beside it in the source; here it is only laid out. A test compares the pages with
what this makes.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nightlab import task

HERE = Path(__file__).parent
SECTIONS: Mapping[str, type[BaseModel]] = {
    "task": task.What,
    "metric": task.Metric,
    "budget": task.Budget,
    "judge": task.Judge,
    "live": task.Live,
    "limits": task.Caps,
    "scale.NAME": task.Rung,
}
"""The tables of nightlab.toml, by their names."""
_BLOCK = re.compile(r"(<!-- made by make docs: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_BOUNDS = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}


def pages() -> dict[str, str]:
    """Every page that is made, by its name, as it should be."""
    return {"task.md": task_page((HERE / "task.md").read_text()), "commands.md": commands_page()}


def task_page(page: str) -> str:
    """The page of the task file with its tables made anew; the words around them stay."""
    missing = SECTIONS.keys() - {name for _, name, _ in _BLOCK.findall(page)}
    if missing:
        raise SystemExit(f"docs/task.md has no block for {', '.join(sorted(missing))}")
    return _BLOCK.sub(lambda found: found[1] + task_table(SECTIONS[found[2]]) + found[3], page)


def task_table(model: type[BaseModel]) -> str:
    """The keys of one table of the task file."""
    meanings = attribute_docstrings(model)
    rows = [(f"`{key}`", kind_of(field), default_of(field), meanings[key]) for key, field in model.model_fields.items()]
    return table(("key", "takes", "unless said", "meaning"), rows)


def attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The sentence below each attribute of a class. It is an error to have none."""
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for one, following in pairwise(body.body):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            if not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)):
                raise SystemExit(f"{model.__name__}.{one.target.id} has no sentence below it that says what it means")
            found[one.target.id] = " ".join(str(following.value.value).split())
    return found


def kind_of(field: FieldInfo) -> str:
    """What may be written for a key, with its range."""
    limits = ["not empty"] if any(getattr(rule, "min_length", 0) for rule in field.metadata) else []
    limits += [
        f"{words} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, words in _BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    kind = "command" if _is_command(field.metadata) else _kind(field.annotation)
    return ", ".join([kind, *limits])


def _is_command(metadata: Iterable[Any]) -> bool:
    return any(rule in get_args(task.Command) for rule in metadata)


def _kind(annotation: Any) -> str:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, inside = get_origin(annotation), [one for one in get_args(annotation) if one is not type(None)]
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in inside)
    if origin in (Union, UnionType):
        return _kind(inside[0])
    if origin is tuple:
        return f"list of {_kind(inside[0])}s" if Ellipsis in inside else f"[{', '.join(map(_kind, inside))}]"
    return "command" if _is_command(inside[1:]) else _kind(inside[0])  # Annotated: a text with a check of its own


def default_of(field: FieldInfo) -> str:
    """What holds where a key is not written."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{json.dumps(value)}`"


def commands_page() -> str:
    """Every command with its arguments and options, as the command line itself knows them."""
    from typer.main import get_command

    from nightlab.cli import app

    top: Any = get_command(app)
    parts = [
        "# Commands\n\n<!-- made by make docs -->\n",
        f"{top.help}\n\n`nightlab [-C FOLDER] COMMAND ...`; the folder is the present one unless said.\n",
        "`--json` is an option of every command; what it prints has stable keys, to which more may be added.\n",
        f"{top.epilog.replace(': ', ':** ', 1).replace('Exit', '**Exit', 1)}\n",
        *(part for name, one in sorted(top.commands.items()) for part in command_parts(f"nightlab {name}", one)),
    ]
    return "\n".join(parts)


def command_parts(name: str, command: Any) -> Iterator[str]:
    """One command, and those below it."""
    yield f"## {name}\n\n{plain(command.help)}\n"
    yield from _usage(name, command)
    for below, one in sorted(getattr(command, "commands", {}).items()):
        if one.hidden:
            continue
        yield f"### {name} {below}\n\n{plain(one.help)}\n"
        yield from _usage(f"{name} {below}", one)


def _usage(name: str, command: Any) -> Iterator[str]:
    is_group = hasattr(command, "commands")
    if is_group and not command.invoke_without_command:
        return
    options = [one for one in command.params if one.opts[0].startswith("-") and one.name != "as_json"]
    arguments = [one for one in command.params if not one.opts[0].startswith("-")]
    words = [_argument(one) for one in arguments]
    words += [*(["[OPTIONS]"] if options else []), *(["-- COMMAND..."] if is_group else [])]
    yield f"`{' '.join([name, *words])}`\n"
    rows = [(f"`{_argument(one)}`", _unless_said(one), plain(one.help or "")) for one in arguments]
    rows += [(_option(one), _unless_said(one), plain(one.help or "")) for one in options]
    if rows:
        yield table(("", "unless said", "meaning"), rows)


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name).upper().strip("[]")
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    takes = "" if getattr(parameter, "is_flag", False) else f" {_takes(parameter)}"
    return names + takes


def _takes(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    kind = parameter.type
    name = str(kind.name).upper()
    is_number = name.startswith(("INT", "FLOAT"))
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    limits = [f"from {least}"] * (least is not None) + [f"up to {most}"] * (most is not None)
    if choices := getattr(kind, "choices", None):
        return "|".join(map(str, choices))
    words = "NUMBER" if is_number else "PATH" if name in ("FILE", "DIRECTORY", "PATH") else "TEXT"
    return f"{words} ({', '.join(limits)})" if limits else words


def _unless_said(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    if default is None or default is False or default == () or default == []:
        return ""
    if getattr(parameter, "is_flag", False):
        return f"`{parameter.opts[0]}`"
    return f"`{default}`"


def plain(text: str) -> str:
    """A help text on one line."""
    return " ".join(text.split())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def main() -> None:
    """Write the pages, or with --check say which are not as they should be."""
    wrong = [name for name, text in pages().items() if not _holds(HERE / name, text)]
    if "--check" in sys.argv[1:]:
        sys.exit(f"not as `make docs` makes them: {', '.join(wrong)}" if wrong else 0)
    for name in wrong:
        (HERE / name).write_text(pages()[name])
        print(f"made docs/{name}")


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    main()
