"""Docstrings as Markdown, for the reference of the site: an extension of griffe, named in mkdocs.yml.

Docstrings say `name: what it means` a line, with indented continuations; in Markdown these lines would run together. Here
each becomes an item of a list, and an indented block that follows a sentence becomes a block of its own.
"""

import re

import griffe

FIELD = re.compile(r"([a-z]\w*(?:, [a-z]\w*)*)( \(.*?\))?: (?=\S)")


def as_markdown(text: str) -> str:
    lines: list[str] = []
    in_field = in_block = False
    for line in text.splitlines():
        indented, before = line.startswith("    "), lines[-1] if lines else ""
        if field := None if indented else FIELD.match(line):
            names = ", ".join(f"`{name}`" for name in field[1].split(", "))
            if before and not in_field:
                lines.append("")
            line = f"- {names}{field[2] or ''}: {line[field.end() :]}"
            in_field, in_block = True, False
        elif indented and not in_field and not in_block:
            if before:
                lines.append("")
            in_block = True
        elif line and not indented:
            if in_field and before:
                lines.append("")
            in_field = in_block = False
        lines.append(line)
    return "\n".join(lines)


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
