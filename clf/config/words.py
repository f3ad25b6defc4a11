"""Values as they stand on the command line or in a YAML file: what they are, and the text of each.

    value("[1e-4, yes, 'null']") == [0.0001, "yes", "null"]     # what they are, untyped
    written("[1e-4, yes, 'null']") == ["1e-4", "yes", "null"]   # as they stand
    tree, texts = load_yaml("account: 0123")                    # {"account": 123}, {...: "0123"}

A setting that is a text takes what stands there: `account: 0123` is no number. On the command line
a value is the text behind the equals sign, whatever it holds, unless it is a list `[a, b c]` or
names and values `{NAME: value}` as a whole.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

# YAML 1.2's plain words, which is what people expect: 1e-4 is a number, 12:30:00 and `on` are texts
FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
PLAIN = (  # kind, pattern, first characters
    ("merge", "<<", ["<"]),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", FLOAT, list("-+.0123456789")),
)
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
PAIRS = {"[": "]", "{": "}", "(": ")"}
MANY = re.compile(r"(range|choice)\(.*\)")  # Hydra's words for many values, as a sweep has


# --- the command line -----------------------------------------------------------------------------


def value(text: str) -> Any:
    """What a typed text is: a number, true, false or null, a list, a dictionary, else a text."""
    return _read(text, _plain)


def written(text: str) -> Any:
    """The same with each number, true and false as the text that stands there."""
    return _read(text, lambda word: None if word and _plain(word) is None else word)


def as_text(text: str) -> str | None:
    """What a typed text is to a setting that takes a text: itself without its quotes, or null."""
    word = text.strip()
    if QUOTED.fullmatch(word):
        return _unquoted(word)
    return None if word and _plain(word) is None else text


def has_several(text: str) -> bool:
    """Whether these are several values, such as 1,2 or range(0,5)."""
    return len(split(text)) > 1 or MANY.fullmatch(text) is not None


def split(text: str) -> list[str]:
    """The parts between commas, but for those inside quotes and brackets."""
    parts, start, place, closing = [], 0, 0, ""
    while place < len(text):
        char = text[place]
        # An apostrophe inside a word, or one that has no second, is a letter.
        opens = char in "'\"" and (place == 0 or not text[place - 1].isalnum())
        if opens and (quoted := QUOTED.match(text, place)):
            place = quoted.end()
            continue
        if char in PAIRS and PAIRS[char] in text[place:]:
            closing = PAIRS[char] + closing
        elif closing and char == closing[0]:
            closing = closing[1:]
        elif char == "," and not closing:
            parts.append(text[start:place].strip())
            start = place + 1
        place += 1
    return [*parts, text[start:].strip()]


def _read(text: str, scalar: Callable[[str], Any]) -> Any:
    """A value, in which `scalar` reads each part that has no parts and no quotes."""
    word = text.strip()
    if QUOTED.fullmatch(word):
        return _unquoted(word)
    if word[:1] not in ("[", "{") or not word.endswith(PAIRS[word[0]]) or not _is_one(word):
        return scalar(word)
    parts = split(word[1:-1])
    if parts[-1] == "":  # [] and [a, b,]
        parts.pop()
    if word[0] == "[":
        return [_read(part, scalar) for part in parts]
    names: dict[str, Any] = {}
    for part in parts:
        quoted = QUOTED.match(part)
        name, colon, rest = part[quoted.end() if quoted else 0 :].partition(":")
        name = _unquoted(quoted.group()) if quoted else name.strip()
        if not colon or not name or name in names:
            return scalar(word)  # no dictionary, which the setting that it is for will say
        names[name] = _read(rest, scalar)
    return names


def _is_one(word: str) -> bool:
    """Whether the bracket that opens a word is closed by its last character: not in [a] && [b]."""
    depth = 0
    for place, char in enumerate(QUOTED.sub(lambda found: "_" * len(found.group()), word)):
        depth += (char == word[0]) - (char == PAIRS[word[0]])
        if depth == 0:
            return place == len(word) - 1
    return False


def _unquoted(word: str) -> str:
    """Without its quotes. A backslash is one, but in front of a quote."""
    quote = word[0]
    return re.sub(
        rf"(\\+)({quote}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], word[1:-1]
    )


def _plain(word: str) -> Any:
    """What a plain word is by YAML 1.2; an empty one stays a text, and ~ is a folder."""
    if word in ("", "~"):
        return word
    kind = next((kind for kind, pattern, _ in PLAIN if re.fullmatch(pattern, word)), "str")
    if kind == "int":
        return whole_number(word)
    readers: dict[str, Callable[[str], Any]] = {
        "null": lambda _: None,
        "bool": lambda word: word.lower() == "true",
        "float": lambda word: float(word.replace(".inf", "inf").replace(".nan", "nan").lower()),
    }
    return readers.get(kind, str)(word)


def whole_number(word: str) -> int:
    return int(word, 16 if word.startswith("0x") else 10)


# --- YAML -----------------------------------------------------------------------------------------


def load_yaml(text: str) -> tuple[Any, Any]:
    """A file's values, and the same with each number, true and false as the text that stands there.
    In the second, a value that is left out is an empty text, and a null is None. Every key is a
    text, and a repeated key is an error.

    Raises:
        yaml.YAMLError: as YAML's own loader
    """
    loader, constructor = _yaml_classes()
    reader = loader(text)
    node = reader.get_single_node()
    if node is None:
        return None, None
    _check_keys(node, [])
    return reader.construct_document(node), constructor().construct_document(node)


@functools.cache
def _yaml_classes() -> tuple[Any, Any]:
    """A loader, and what constructs the texts of what it has read."""
    import yaml
    from yaml.constructor import SafeConstructor

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[str, list[Any]] = {}

    class Texts(SafeConstructor):
        pass

    def as_written(_: Any, node: Any) -> str:
        return node.value

    for kind, pattern, first in PLAIN:
        tag = f"tag:yaml.org,2002:{kind}"
        Loader.add_implicit_resolver(tag, re.compile(f"^({pattern})$"), first)
        if kind in ("bool", "int", "float"):
            Texts.add_constructor(tag, as_written)
    Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: whole_number(node.value))
    null = "tag:yaml.org,2002:null"
    Texts.add_constructor(null, lambda _, node: None if node.value else "")
    return Loader, Texts


def _check_keys(node: Any, above: list[Any]) -> None:
    """Make the keys of a node, and of all nodes inside it, texts. Refuse repeated keys and a node
    that contains itself. This comes before merge keys (`<<`) are followed, which may repeat a key.
    """
    from yaml import MappingNode, ScalarNode, SequenceNode
    from yaml.constructor import ConstructorError

    if any(node is one for one in above):
        raise ConstructorError(None, None, "this part of the file contains itself", node.start_mark)
    inside = node.value if isinstance(node, SequenceNode) else []
    if isinstance(node, MappingNode):
        inside = [value for _, value in node.value]
        words = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise ConstructorError(None, None, "a key must be a text", key.start_mark)
            if words.count(key.value) > 1:
                fault = f"the key {key.value} stands twice"
                raise ConstructorError(None, None, fault, key.start_mark)
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
    for one in inside:
        _check_keys(one, [*above, node])
