"""Size budgets and habits that no linter knows: long files, functions and classes, broad excepts, late imports."""

import ast
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "sessile"
FILE, FUNCTION, CLASS = 600, 80, 400

BROAD_EXCEPT = {
    "api/app.py": "a defect in a handler becomes a 500",
    "runner/worker.py": "a defect in a turn ends the turn",
    "runner/dispatch.py": "a tool is foreign code",
    "tools/python.py": "a tool is foreign code",
    "tools/mcp_session.py": "a tool server, and the library that speaks to it, are foreign code",
    "stores/sqlite/lanes.py": "a defect in a verb goes to its caller, not to the writer thread",
    "stores/postgres/lanes.py": "a defect in a call goes to its caller, not to the batch",
}
"""The files that may catch everything, each with its reason."""


def problems(path: Path) -> list[str]:
    """What is wrong with one file."""
    name = path.relative_to(SOURCE).as_posix()
    text = path.read_text(encoding="utf-8")
    found = []
    if (lines := text.count("\n")) > FILE:
        found.append(f"{name}: {lines} lines, more than {FILE}")
    for node in ast.walk(ast.parse(text)):
        found += [f"{name}:{getattr(node, 'lineno', 0)}: {problem}" for problem in _of(node, name)]
    return found


def _of(node: ast.AST, name: str) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        found = [f"import of our own package inside {node.name}" for inner in ast.walk(node) if _imports_sessile(inner)]
        return found + _too_long(node, FUNCTION)
    if isinstance(node, ast.ClassDef):
        return _too_long(node, CLASS)
    if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and name not in BROAD_EXCEPT:
        return ["catches everything, and is not on the list of those that may"]
    return []


def _too_long(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, budget: int) -> list[str]:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    return [f"{node.name} has {lines} lines, more than {budget}"] if lines > budget else []


def _imports_sessile(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] == "sessile" or node.level > 0
    return isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "sessile" for alias in node.names)


def _is_broad(kind: ast.expr | None) -> bool:
    return kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))


def main() -> int:
    """Print the problems; the exit status is 1 when there are any."""
    found = [problem for path in sorted(SOURCE.rglob("*.py")) for problem in problems(path)]
    sys.stdout.writelines(f"{problem}\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
