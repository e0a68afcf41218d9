"""Values as JSON that holds no code: what a program answers is carried to its evaluator in this form, and no pickle is.

Numbers, texts, lists, tuples, sets, dicts with any simple key, complex numbers, bytes and plain arrays. Anything else
is refused by name.
"""

import base64
import json


def packed(value):
    """A value as what JSON can say."""
    if value is None or isinstance(value, (bool, str, int, float)):
        return value
    if isinstance(value, list):
        return [packed(one) for one in value]
    if isinstance(value, (tuple, set, frozenset)):
        kind = "tuple" if isinstance(value, tuple) else "set"
        return {"is": kind, "of": [packed(one) for one in value]}
    if isinstance(value, dict):
        return {"is": "dict", "of": [[packed(key), packed(one)] for key, one in value.items()]}
    if isinstance(value, complex):
        return {"is": "complex", "of": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"is": "bytes", "of": base64.b64encode(value).decode()}
    if hasattr(value, "dtype") and hasattr(value, "tobytes") and value.dtype.kind in "biufcSU":
        shape, content = list(value.shape), base64.b64encode(value.tobytes()).decode()
        return {"is": "array", "dtype": value.dtype.str, "shape": shape, "of": content}
    raise TypeError(f"a {type(value).__name__} cannot be carried; answer with numbers, texts, lists, dicts or arrays")


def unpacked(said):
    """The value again."""
    if isinstance(said, list):
        return [unpacked(one) for one in said]
    if not isinstance(said, dict):
        return said
    of = said["of"]
    if said["is"] == "array":
        import numpy

        plain = numpy.frombuffer(base64.b64decode(of), numpy.dtype(said["dtype"])).reshape(said["shape"]).copy()
        return plain if said["shape"] else plain[()]
    makers = {
        "tuple": lambda: tuple(map(unpacked, of)),
        "set": lambda: set(map(unpacked, of)),
        "dict": lambda: {unpacked(key): unpacked(one) for key, one in of},
        "complex": lambda: complex(*of),
        "bytes": lambda: base64.b64decode(of),
    }
    return makers[said["is"]]()


def write(path, value):
    """Put a value into a file."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(packed(value), file)


def read(path):
    """The value in a file."""
    with open(path, encoding="utf-8") as file:
        return unpacked(json.load(file))
