"""What `--help` says of configs: their names and variants; every key, its value, type
and meaning. Meanings are the docstrings of the functions that the sections call.
"""

import ast
import inspect
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping

from alexnet_jax.nn.layers import Conv, Dense
from alexnet_jax.runs import config as sections
from alexnet_jax.runs.config_file import ConfigDict, ConfigFile, config_folder


# `name, other: text`, and lines of further text behind it.
_ENTRY = re.compile(r"  (\w[\w, ]*): (.*(?:\n    .*)*)")
_ELSEWHERE = re.compile(r"see `(\w+)`\.?")
LAYERS = "model.layers"


def listing(width: int) -> str:
    """A line for each config of the package: its name, and how its docstring opens."""
    lines = []
    for path in sorted(config_folder().glob("*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        line = f"  {path.stem:<11} {about.partition(chr(10))[0]}"
        lines.append(textwrap.fill(line, width, subsequent_indent=" " * 14))
    return "\n".join(lines)


def describe(file: ConfigFile, width: int) -> str:
    """A config's docstring, its variants, and every key with value, type and meaning.

    Args:
      file: the config, as it stands with its overrides.
      width: of the lines, in columns.
    """
    parts = [file.about.rstrip(), _variants(file, width)]
    parts.append(
        textwrap.fill(
            "Every key with its value here, its type and its meaning. A line can be "
            "given as it stands, with another value.",
            width,
        )
    )
    for section in sections.SECTIONS:
        if isinstance(values := file.config.get(section), ConfigDict):
            parts += _keys(section, values, width)
    return "\n\n".join(part for part in parts if part)


def meanings(function: Callable[..., object]) -> dict[str, str]:
    """What a function's docstring says of its arguments, or a class's of its fields.

    An entry that only says "see `NAME`" has the text of that function, which the
    module of this one knows.
    """
    text = inspect.getdoc(function) or ""
    found = {}
    for names, body in _ENTRY.findall(text):
        meaning = " ".join(body.split())
        elsewhere = _ELSEWHERE.fullmatch(meaning)
        for name in names.split(", "):
            found[name] = meaning
            if elsewhere:
                module = inspect.getmodule(function)
                found[name] = meanings(getattr(module, elsewhere[1]))[name]
    return found


def _variants(file: ConfigFile, width: int) -> str:
    if not file.variants:
        return ""
    shown = [f"{v} (default)" if v == file.default else v for v in file.variants]
    text = f"Variants, as --config={file.name}:VARIANT: {', '.join(shown)}"
    return textwrap.fill(text, width)


def _keys(section: str, values: ConfigDict, width: int) -> Iterator[str]:
    """A paragraph for each key of a section."""
    known = meanings(sections.SECTIONS[section])
    for key, parameter in sections.parameters(section).items():
        if key not in values:
            continue
        if f"{section}.{key}" == LAYERS:
            yield from _rows(sections.plain(values[key]), known[key], width)
            continue
        value = _shown(sections.plain(values[key]))
        yield _paragraph(
            f"--config.{section}.{key}={value}",
            _kind(parameter.annotation),
            known[key],
            width,
        )


def _rows(
    layers: Mapping[str, Mapping[str, object]], meaning: str, width: int
) -> Iterator[str]:
    """A paragraph for each key of the layers, with its values by layer."""
    yield _paragraph(f"--config.{LAYERS}.LAYER.KEY=VALUE", "", meaning, width)
    for row in (Conv, Dense):
        of_kind = {
            name: values
            for name, values in layers.items()
            if ("kernel" in values) == (row is Conv)
        }
        if not of_kind:
            continue
        first = next(iter(of_kind))
        known = meanings(row)
        for key, field in inspect.signature(row).parameters.items():
            by_layer = [f"{name} {_shown(v[key])}" for name, v in of_kind.items()]
            yield _paragraph(
                f"--config.{LAYERS}.{first}.{key}={_shown(of_kind[first][key])}",
                _kind(field.annotation),
                f"{known[key]} By layer: {'; '.join(by_layer)}.",
                width,
            )


def _paragraph(head: str, kind: str, meaning: str, width: int) -> str:
    first = f"{head}  ({kind})" if kind else head
    fill = textwrap.TextWrapper(
        width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    body = textwrap.fill(meaning, width - 4, break_on_hyphens=False)
    return f"{fill.fill(first)}\n{textwrap.indent(body, '    ')}"


def _shown(value: object) -> str:
    """A value as a shell takes it."""
    if isinstance(value, str):
        return shlex.quote(value)
    if isinstance(value, tuple) and value and tuple not in map(type, value):
        return ",".join(map(str, value)) + ("," if len(value) == 1 else "")
    text = str(value)
    return f'"{text}"' if set(text) & set("(){}' ") else text


def _kind(annotation: object) -> str:
    """A type as a user reads it: `int or None`."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = re.sub(r"\b(collections\.abc|typing)\.", "", text)
    text = re.sub(r"\b(?:Sequence|tuple)\[(\w+)(?:, \.\.\.)?\]", r"\1,\1,...", text)
    text = re.sub(r"\bMapping\[str, \w+\]", "{layer: value}", text)
    return text.replace(" | ", " or ")
