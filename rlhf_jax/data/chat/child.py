"""The program of the process that renders chat templates, which are code out of a folder: jinja2 and the standard
library alone, in a sandbox, and within limits that it sets itself before it reads the template.

Its arguments are the folders in which jinja2 and what it needs are found. Standard input and output carry messages of
JSON, each after its length in bytes as eight bytes, big end first. This process says ``{}`` when it is ready; until
then what goes wrong is no template's fault, and is told on standard error. The first message to it is ``{"template",
"variables", "seconds"}``, the last of which are of processor time for the template and for each batch, and has the
answer ``{}``. Each one after it is ``[[messages, generate], ...]``, a batch of dialogues, and has the answer
``[[text, null] or [null, why not], ...]``. An answer ``{"failed": why}``, or none, is the template's fault.
"""

import json
import math
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

sys.path += sys.argv[1:]

import jinja2
import jinja2.debug  # what is first used when a template fails, or while one is compiled, is loaded before the limits
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

MEMORY = 2**30  # bytes of address space
# Characters that a dialogue may become: so many, and so many times its contents.
LEAST, GROWTH = 100_000, 16


class Generation(jinja2.ext.Extension):
    """``{% generation %}``, which marks what the assistant wrote: rendered like anything else."""

    tags = {"generation"}  # noqa: RUF012 as jinja2 has it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """What is between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TooLong(Exception):
    """The template writes more than it may."""


def environment() -> jinja2.Environment:
    """What transformers renders templates in, without what would make two runs differ: no date and nothing random."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    del made.filters["random"], made.globals["lipsum"]
    made.filters["tojson"] = _json
    made.globals |= {"raise_exception": _refuse, "namespace": _namespace}
    return made


def compiled(text: str) -> jinja2.Template:
    """The template. Raises SecurityError if it gives a namespace an attribute that the sandbox hides."""
    made = environment()
    for node in made.parse(text).find_all(jinja2.nodes.NSRef):
        _namespace(**{node.attr: None})
    return made.from_string(text)


def rendered(template: jinja2.Template, variables: dict[str, Any], messages: Any, generate: bool) -> str:
    """One dialogue as text, with the variables that transformers sets."""
    left = LEAST + GROWTH * sum(len(message["content"]) for message in messages)
    parts = []
    settings = {"tools": None, "documents": None, "add_generation_prompt": generate}
    for part in template.generate(**{**variables, **settings}, messages=messages):
        left -= len(part)
        if left < 0:
            raise TooLong(f"writes more than {LEAST:,} characters and {GROWTH} times the dialogue")
        parts.append(part)
    return "".join(parts)


def main() -> None:
    """Answer until the input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    _limit()
    _write(sink, {})
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    order = _read(source)
    seconds: int = order["seconds"]
    _allow(seconds)
    try:
        template = compiled(order["template"])
    except Exception as error:
        _write(sink, {"failed": f"cannot be compiled ({_said(error)})"})
        return
    _write(sink, {})
    while (batch := _read(source)) is not None:
        _allow(seconds)
        try:
            answers: Any = [_answer(template, order["variables"], *one) for one in batch]
        except (MemoryError, TooLong) as error:
            answers = {"failed": str(error) or f"needs more than {MEMORY / 2**30:g} GiB of memory"}
        _write(sink, answers)


def _answer(template: jinja2.Template, variables: dict[str, Any], messages: Any, generate: bool) -> list[str | None]:
    try:
        return [rendered(template, variables, messages, generate), None]
    except (MemoryError, TooLong):
        raise
    except Exception as error:
        return [None, _said(error)]


def _said(error: Exception) -> str:
    """A template's own message alone, any other with its type; of no more than a line."""
    text = " ".join(str(error).split())[:300]
    return text if type(error) is jinja2.TemplateError and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _limit() -> None:
    """Little memory, no file to write, no process to start."""
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NPROC, 0)):
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError):  # a system without this limit
            continue
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _allow(seconds: int) -> None:
    """So much processor time from now, rounded up, after which the system ends the process, whatever it is at."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, hard))


def _namespace(*values: Any, **names: Any) -> jinja2.utils.Namespace:
    for name in dict(*values, **names):
        if str(name).startswith("_"):
            raise jinja2.sandbox.SecurityError(f"namespace: attribute {name!r} begins with an underscore")
    return jinja2.utils.Namespace(*values, **names)


def _refuse(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _read(source: BinaryIO) -> Any:
    head = source.read(8)
    return json.loads(source.read(struct.unpack(">Q", head)[0])) if len(head) == 8 else None


def _write(sink: BinaryIO, value: Any) -> None:
    data = json.dumps(value).encode()
    sink.write(struct.pack(">Q", len(data)) + data)
    sink.flush()


if __name__ == "__main__":
    main()
