"""Directories and files as archives that are named by their content.

Equal content has one archive, however often it is sent and by whom. An archive is written beside its place and renamed,
so that one that is there is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from atoll.exceptions import RuntimeEnvSetupError

MAXIMUM_BYTES = 512 * 2**20
"""A directory that holds more is refused: it was hardly meant to be sent. Ray's limit."""

ALWAYS_LEFT_OUT = (".git/", "__pycache__/", "*.pyc")

_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(source: Path, packages: Path, excludes: Sequence[str], *, inside: str = "") -> str:
    """Make an archive of a directory or file, unless it is there already.

    Args:
        source: The directory, `.py` file, `.zip` or `.whl`; the latter two are archives already.
        packages: Where archives lie.
        excludes: Patterns of what is left out, as in `.gitignore`; those of a `.gitignore` in the directory count too.
        inside: The directory within the archive that everything goes into.

    Returns:
        The archive's name.

    Raises:
        RuntimeEnvSetupError: It holds too much, or cannot be read.
    """
    packages.mkdir(mode=0o700, exist_ok=True)
    try:
        if source.suffix in (".zip", ".whl") and source.is_file():
            return _keep(source, packages)
        members = sorted(_members(source, excludes, inside))
        digest = hashlib.blake2b(digest_size=16)
        for name, path in members:
            digest.update(f"{name}\0{os.access(path, os.X_OK):d}\0".encode(errors="surrogateescape"))
            digest.update(hashlib.blake2b(path.read_bytes(), digest_size=32).digest())
        target = packages / f"{digest.hexdigest()}.zip"
        if not target.exists():
            _write(members, target)
    except OSError as error:
        raise RuntimeEnvSetupError(f"{source} cannot be read: {error}") from error
    return target.name


def _keep(source: Path, packages: Path) -> str:
    if source.stat().st_size > MAXIMUM_BYTES:
        raise RuntimeEnvSetupError(f"{source} is larger than {MAXIMUM_BYTES >> 20} MiB")
    data = source.read_bytes()
    target = packages / f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.zip"
    if not target.exists():
        part = _beside(target)
        part.write_bytes(data)
        part.rename(target)
    return target.name


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}.{secrets.token_hex(4)}")


def _members(source: Path, excludes: Sequence[str], inside: str) -> Iterator[tuple[str, Path]]:
    """Yield what goes in: names within the archive, and files."""
    prefix = f"{inside}/" if inside else ""
    if source.is_file():
        yield f"{prefix}{source.name}", source
        return
    ignore = source / ".gitignore"
    own = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    left_out = Patterns([*ALWAYS_LEFT_OUT, *own, *excludes])
    total = 0
    for directory, directories, files in os.walk(source):
        here = Path(directory)
        relative = here.relative_to(source).as_posix()
        base = "" if relative == "." else f"{relative}/"
        directories[:] = sorted(name for name in directories if not left_out.match(f"{base}{name}", directory=True))
        for name in files:
            path = here / name
            if left_out.match(f"{base}{name}", directory=False) or not path.is_file():
                continue
            total += path.stat().st_size
            if total > MAXIMUM_BYTES:
                raise RuntimeEnvSetupError(
                    f"{source} holds more than {MAXIMUM_BYTES >> 20} MiB; leave out what workers do not need with "
                    "runtime_env['excludes']"
                )
            yield f"{prefix}{base}{name}", path


def _write(members: list[tuple[str, Path]], target: Path) -> None:
    part = _beside(target)
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, path in members:
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (0o700 if os.access(path, os.X_OK) else 0o600) << 16
                with path.open("rb") as file, archive.open(entry, "w") as written:
                    shutil.copyfileobj(file, written)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


class Patterns:
    """Patterns as in `.gitignore`: the last one that matches decides, and `!` takes back what an earlier one says.

    Args:
        lines: The patterns; empty lines and comments are allowed.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self._rules: list[tuple[re.Pattern[str], bool, bool]] = []
        for line in lines:
            text = line.rstrip()
            if not text or text.startswith("#"):
                continue
            leave_out = not text.startswith("!")
            text = text.removeprefix("!")
            only_directories = text.endswith("/")
            text = text.removesuffix("/")
            anchored = "/" in text
            expression = _translate(text.removeprefix("/"))
            self._rules.append(
                (re.compile(expression if anchored else f"(?:.*/)?{expression}"), only_directories, leave_out)
            )

    def match(self, path: str, *, directory: bool) -> bool:
        """Whether a path, relative and with slashes, is left out."""
        matched = False
        for expression, only_directories, leave_out in self._rules:
            if (directory or not only_directories) and expression.fullmatch(path):
                matched = leave_out
        return matched


def _translate(pattern: str) -> str:
    """Return the regular expression of one pattern."""
    table = {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}
    made = ""
    for part in re.split(r"(\*\*/|/\*\*|\*|\?|\[[^\]]+\])", pattern):
        if part in table:
            made += table[part]
        elif part.startswith("[") and part.endswith("]"):
            made += f"[{part[1:-1].replace('!', '^', 1) if part[1] == '!' else part[1:-1]}]"
        else:
            made += re.escape(part)
    return made
