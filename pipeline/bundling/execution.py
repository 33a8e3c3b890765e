"""What a bundle would execute, read without executing any of it: expressions, components, Python files, pickles.

A config is data until MONAI's parser makes objects of it; here its files are read as plain JSON and YAML and searched.
Nothing of the bundle is imported, evaluated or unpickled, and neither torch nor MONAI is needed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..bundle import CONFIG_SUFFIXES
from ..bundle_files import bundle_files
from .pickles import SUFFIXES, look_into

KNOWN_PACKAGES = ("monai", "torch", "ignite", "scanloom")
"""Whose classes may be components without being shown."""
SHOWN_THOUGH_KNOWN = re.compile(
    r"torch\.(hub|jit|package|serialization|load|save|utils\.cpp_extension|multiprocessing|distributed)\b"
    r"|monai\.(bundle|apps|fl|auto3dseg|utils\.module|utils\.misc)\b"
)
"""What of these packages loads, fetches or starts other code."""
PYTHON = (".py", ".pyc", ".pyi", ".pyd", ".so", ".dll", ".dylib", ".ipynb", ".sh", ".exe", ".bat", ".pth")
"""Files that are programs by their names; .pth only at the top, where Python takes it for one."""
KNOWN_LOGGING = ("(sys.stdout,)", "(sys.stderr,)", "()", "StreamHandler", "logging.Formatter")
"""Values in a config of `logging` that do no more than they say."""
DEEPEST = 200

Kind = Literal["expression", "import", "target", "file outside", "python", "pickle", "unreadable"]
TITLES: dict[Kind, str] = {
    "expression": "expressions that are evaluated",
    "import": "imports",
    "target": "components outside of " + ", ".join(KNOWN_PACKAGES),
    "file outside": "configs read by their paths, which the digest does not cover",
    "python": "Python files and programs, which its config can import or start",
    "pickle": "files that are more than tensors (scanloom loads tensors alone)",
    "unreadable": "configs that can not be read, and so not be looked through",
}


@dataclass(frozen=True)
class Executed:
    """One thing that runs when the bundle's config is used.

    Attributes:
        kind: of it.
        file: within the bundle.
        key: where in the config, `#` between the parts; empty where it is the file itself.
        text: the expression, the component's name, or what is to be said of the file; as it is, unprintable
            characters and all.
    """

    kind: Kind
    file: str
    key: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.key}" if self.key else self.file
        return printable(f"{place}: {self.text}" if self.text else place)

    def to_json(self) -> dict[str, str]:
        """Its attributes."""
        return asdict(self)


def what_runs(folder: Path) -> list[Executed]:
    """Everything that a bundle would execute or might, in the order of its files."""
    return [each for name, path in bundle_files(folder) for each in _of_file(name, path)]


def printable(text: str) -> str:
    """The text in one line that hides nothing: control characters, line ends and turned directions are spelled out."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode() for each in text
    )


def read_plainly(path: Path) -> Any:
    """A JSON or YAML file as plain data.

    Raises:
        ValueError: it is neither.
        OSError: it can not be read.
    """
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".json":
            return json.loads(text)
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"no plain data ({type(error).__name__})") from error


def _of_file(name: str, path: Path) -> Iterator[Executed]:
    suffix = path.suffix.lower()
    if suffix in CONFIG_SUFFIXES:
        try:
            yield from _of_content(name, read_plainly(path))
        except (ValueError, RecursionError, OSError) as error:
            yield Executed("unreadable", name, "", str(error).partition("\n")[0] or type(error).__name__)
    elif suffix in PYTHON and (suffix != ".pth" or "/" not in name):
        yield Executed("python", name, "", "")
    elif suffix == ".conf" and "args" in path.read_text(encoding="utf-8", errors="replace"):
        yield from _of_logging(name, path)
    elif suffix in SUFFIXES or name.startswith("models/"):
        found = look_into(path)
        if found:
            yield Executed("pickle", name, "", found)


def _of_content(file: str, content: Any) -> Iterator[Executed]:
    seen: set[int] = set()
    todo: list[tuple[str, Any, int]] = [("", content, 0)]
    while todo:
        key, value, depth = todo.pop()
        if isinstance(value, Mapping | list):
            if id(value) in seen or depth > DEEPEST:  # YAML's anchors: what was seen at another place is the same
                continue
            seen.add(id(value))
            pairs = list(value.items()) if isinstance(value, Mapping) else list(enumerate(value))
            todo += [(f"{key}#{name}" if key else str(name), each, depth + 1) for name, each in reversed(pairs)]
        elif isinstance(value, str):
            yield from _of_text(file, key, value)


def _of_text(file: str, key: str, text: str) -> Iterator[Executed]:
    if text.startswith("$"):
        is_import = re.match(r"\$\s*(import|from)\s", text) is not None
        yield Executed("import" if is_import else "expression", file, key, text)
    elif text.startswith("%") and any(suffix in text.lower() for suffix in CONFIG_SUFFIXES):
        yield Executed("file outside", file, key, text)
    elif re.split("#|::", key)[-1] == "_target_" and not _is_known(text):
        yield Executed("target", file, key, text)


def _of_logging(name: str, path: Path) -> Iterator[Executed]:
    """The expressions in a config of `logging`, which `logging.config.fileConfig` evaluates."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if re.match(r"\s*(args|kwargs|class)\s*[=:]", line) and line.partition("=")[2].strip() not in KNOWN_LOGGING:
            yield Executed("expression", name, f"line {number}", line.strip())


def _is_known(target: str) -> bool:
    """Whether it is a class of a known package, or of MONAI's by its bare name.

    `torch.os.system` is no such: a name that leads through a module of Python's own, or that ends in small letters, as
    functions do, is shown.
    """
    if SHOWN_THOUGH_KNOWN.match(target):
        return False
    parts = target.split(".")
    plain = all(part.isidentifier() for part in parts) and parts[-1].lstrip("_")[:1].isupper()
    if len(parts) == 1:
        return plain
    through_python = any(part in _PYTHONS_OWN for part in parts[1:-1])
    return plain and parts[0] in KNOWN_PACKAGES and not through_python


_PYTHONS_OWN = sys.stdlib_module_names | set(sys.builtin_module_names) | {"builtins"}
