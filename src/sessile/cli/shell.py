"""How the shell of whoever started this program would call it again."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def here() -> Path:
    """The folder that shell is in: `make -C` and the like go elsewhere, and leave its name in PWD."""
    shell = Path(os.environ.get("PWD", ""))
    return shell if shell.is_absolute() and shell.is_dir() else Path.cwd()


def path(name: str | Path) -> str:
    """A path as a word for that shell: relative if it leads down from there, otherwise absolute."""
    absolute = Path(os.path.abspath(name))
    try:
        return shlex.quote(str(absolute.relative_to(here().resolve())))
    except ValueError:
        return shlex.quote(str(absolute))


def command() -> str:
    """The words that run this program: its name if the shell finds it by that, otherwise the way to it."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{path(sys.executable)} -m sessile"
    found = shutil.which(called.name)
    if found is not None and called.exists() and Path(found).samefile(called):
        return called.name
    word = path(called)
    return word if "/" in word else f"./{word}"
