"""A source file and the files that it imports.

Paths are relative to the importing file and never leave the folder of the file that is compiled.  A file is read once,
however many import it and however often the net is elaborated; a cycle is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from concatc.diagnostics import ConcatcError, Loc, Sink, did_you_mean
from concatc.frontend.cnet import ast, limits, parser
from concatc.frontend.source import SourceFiles, decode


@dataclass(eq=False)
class Block:
    """A block and the file whose names and defaults it sees."""

    definition: ast.Definition
    unit: Unit

    @property
    def name(self) -> str:
        """Its name."""
        return self.definition.name.text


@dataclass(eq=False)
class Unit:
    """A parsed file: its nets, the blocks that it can call by a plain name, and the files imported under a name.

    ``broken`` says that an item did not parse, so that a missing name may be no mistake of its own.
    """

    file: ast.File
    nets: dict[str, ast.Definition] = field(default_factory=dict)
    blocks: dict[str, Block] = field(default_factory=dict)
    aliases: dict[str, Unit] = field(default_factory=dict)
    broken: bool = False


@dataclass(frozen=True)
class Imported:
    """A file that was imported: its name, as messages have it, where it lies below the project, and its sha256."""

    name: str
    place: str
    sha256: str


class Project:
    """Loads a file and what it imports, as ``files`` has it; mistakes go to ``sink``."""

    def __init__(self, files: SourceFiles, sink: Sink) -> None:
        self.sink = sink
        self._files = files
        self._units: dict[Path, Unit] = {}
        self._open: list[Path] = []
        self.imports: list[Imported] = []

    def load(self, text: str, filename: str, path: Path | None = None) -> Unit:
        """Parse one file and, first, its imports."""
        text = self._normalise(text, filename)
        try:
            file, errors = parser.parse(text, filename)
        except ConcatcError as error:
            self.sink.diagnostics += error.diagnostics
            return Unit(ast.File(filename, ()), broken=True)
        self.sink.diagnostics += errors
        unit = Unit(file, broken=any(isinstance(item, ast.Bad) for item in file.items))
        self._open.append(path or self._files.main)
        for item in file.items:
            if isinstance(item, ast.Import):
                self._import(unit, item)
        self._open.pop()
        self._define(unit)
        return unit

    def _normalise(self, text: str, filename: str) -> str:
        self.sink.sources[filename] = ""
        text = parser.normalise(text, filename)
        self.sink.sources[filename] = text
        return text

    def _define(self, unit: Unit) -> None:
        defined: dict[str, Loc] = {}
        for item in unit.file.items:
            if not isinstance(item, ast.Definition):
                continue
            name = item.name.text
            if name in defined:
                self.sink.error(f"`{name}` is defined twice", item.loc, [f"first in line {defined[name].line}"])
                continue
            defined[name] = item.loc
            if item.kind == "net":
                unit.nets[name] = item
                continue
            if name in unit.blocks:
                first = unit.blocks[name].definition.loc
                self.sink.error(
                    f"`{name}` is also imported", item.loc, [f"from {first}"], 'name the import: `import "..." as b`'
                )
            unit.blocks[name] = Block(item, unit)

    def _import(self, unit: Unit, item: ast.Import) -> None:
        imported = self._open_import(unit, item)
        if imported is None:
            unit.broken = True
            return
        unit.broken |= imported.broken
        if item.name is not None:
            if item.name.text in unit.aliases:
                self.sink.error(f"two imports are called `{item.name.text}`", item.name.loc)
            unit.aliases[item.name.text] = imported
            return
        for name, block in imported.blocks.items():
            if block.unit is not imported:
                continue
            if name in unit.blocks and unit.blocks[name] is not block:
                self.sink.error(
                    f"two imports define `{name}`",
                    item.loc,
                    [f"the other is {unit.blocks[name].definition.loc}"],
                    'name one of them: `import "..." as b`',
                )
            unit.blocks[name] = block

    def _open_import(self, unit: Unit, item: ast.Import) -> Unit | None:
        here = Path(unit.file.name)
        if not item.path or "\\" in item.path or not item.path.isprintable():
            self.sink.error(f'"{item.path}" is no path of a file', item.loc)
            return None
        target = self._files.target(self._open[-1].parent / item.path)
        if Path(item.path).is_absolute() or not target.is_relative_to(self._files.root):
            self.sink.error(
                f'"{item.path}" lies outside the project',
                item.loc,
                [f"the project is the folder of {self._files.name}, which is compiled"],
            )
            return None
        if target in self._open:
            chain = [p.name for p in self._open[self._open.index(target) :]] + [target.name]
            self.sink.error("imports go in a circle", item.loc, [" -> ".join(chain)])
            return None
        name = str(here.parent / item.path)
        if target in self._units:
            self._note(name, target)
            return self._units[target]
        if len(self._units) >= limits.FILES or len(self._open) > limits.CALL_DEPTH:
            self.sink.error("too many files are imported", item.loc)
            return None
        try:
            data = self._files.read(target, name)
            if data is None:
                found = sorted(target.parent.glob("*.cnet"))[:1000] if target.parent.is_dir() else []
                near = [p.name for p in found if p.resolve() not in self._open]  # who imports it is no help
                self.sink.error(f'there is no file "{item.path}"', item.loc, help=did_you_mean(target.name, near))
                return None
            loaded = self.load(decode(data, name), name, target)
        except ConcatcError as error:
            self.sink.diagnostics += error.diagnostics
            return None
        except OSError as error:
            self.sink.error(f'"{item.path}" cannot be read: {error.strerror}', item.loc)
            return None
        self._units[target] = loaded
        self._note(name, target)
        return loaded

    def _note(self, name: str, target: Path) -> None:
        sha256 = self._files.sha256(target, name)
        assert sha256 is not None, "it was read"
        self.imports.append(Imported(name, str(target.relative_to(self._files.root)), sha256))
