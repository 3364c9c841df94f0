"""The house: who imports whom."""
import ast
from pathlib import Path

import pytest

MAY_IMPORT = {
    "core_jax": set(),
    "koala_jax": {"core_jax"},
    "videodit_jax": {"core_jax", "koala_jax"},
    "scaling_jax": {"core_jax", "koala_jax", "videodit_jax"},
    "owl_jax": {"core_jax", "koala_jax", "videodit_jax"},
}
ROOT = Path(__file__).parents[1]


def imported(source: str) -> set[str]:
    """Top-level packages that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
    return {name.split(".")[0] for name in found}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_stands_left_of_it(package):
    forbidden = (MAY_IMPORT.keys() | {"tests"}) - MAY_IMPORT[package] - {package}
    for path in (ROOT / package).rglob("*.py"):
        assert not imported(path.read_text()) & forbidden, path


def test_the_scan_sees_every_kind_of_import():
    assert imported("def f():\n  import owl_jax.state as s\n  from videodit_jax.flow import v\nimport a, b.c\nfrom . import d") == {
        "owl_jax", "videodit_jax", "a", "b",
    }
