"""The house: who imports whom."""
import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
import tomllib
import typing
from pathlib import Path

import pytest
from flax import nnx

MAY_IMPORT = {
    "core_jax": set(),
    "koala_jax": {"core_jax"},
    "videodit_jax": {"core_jax", "koala_jax"},
    "scaling_jax": {"core_jax", "koala_jax", "videodit_jax"},
    "owl_jax": {"core_jax", "koala_jax", "videodit_jax"},
}
ROOT = Path(__file__).parents[1]
FILES = [path for package in (*MAY_IMPORT, "tests") for path in (ROOT / package).rglob("*.py")]
PAGES = [ROOT / "README.md", ROOT / "WORKSPACE.md", *sorted(ROOT.glob("docs/*.md"))]


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


def test_importing_the_packages_leaves_flax_as_it_was():
    """Who calls one function of ours in a program of their own keeps their own settings."""
    import core_jax  # noqa: F401

    assert nnx.set_graph_mode.current_value() and nnx.set_graph_updates.current_value()


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=lambda page: page.name)
def test_what_a_page_imports_is_there(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), page.name, "exec"), {})


def test_what_the_packages_import_a_plain_install_brings():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = {re.match(r"[\w.-]+", text)[0].replace("-", "_") for text in project["dependencies"]}
    names = {"PIL": "pillow", "cv2": "opencv_python_headless", "orbax": "orbax_checkpoint"}
    for path in (path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py") if not path.name.startswith("torch_")):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        found = imported(ast.unparse(ast.Module(top, []))) - MAY_IMPORT.keys() - sys.stdlib_module_names
        assert {names.get(name, name) for name in found} <= brought, path


def written(node: ast.expr) -> str:
    """The text of a string or f-string, each value in it as {}."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_an_error_is_one_sentence(package):
    for path in (ROOT / package).rglob("*.py"):
        raised = [node.exc for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
        for text in (written(argument) for error in raised for argument in error.args):
            assert not re.search(r"[.?!] [A-Z{]|[a-z}]\.$", text), f"{path}: {text}"


def options(kind: type) -> list[str]:
    """The options of a command, and of what it is made of, that --help says nothing of, or in broken lines."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    told = {a.target.id for a, b in zip(body, body[1:]) if isinstance(a, ast.AnnAssign) and isinstance(b, ast.Expr) and "\n" not in b.value.value}
    types, silent = typing.get_type_hints(kind), []
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(types[field.name]):
            silent += options(types[field.name])
        elif field.name in vars(kind).get("__annotations__", {}) and field.name not in told:
            silent.append(f"{kind.__module__}.{kind.__name__}.{field.name}")
    return silent


def test_every_option_says_what_it_is():
    commands = [(path, name) for path in FILES for name in re.findall(r"cli\.parse\((\w+), ", path.read_text())]
    assert len(commands) > 30
    for path, name in commands:
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        kind = getattr(module, name)
        assert not options(kind), path
        local = [name for name, held in typing.get_type_hints(kind).items() if Path in (held, *typing.get_args(held))]
        assert path.relative_to(ROOT).parts[0] == "tests" or not local, f"{path}: pathlib makes gs:/ of gs://"


def flags(kind: type, prefix: str = "--") -> set[str]:
    """Names of the flags of a command; of a part of its config with and without the part's name, as either may be how tyro is asked to take them."""
    types, found = typing.get_type_hints(kind), {"--help"}
    for field in dataclasses.fields(kind):
        name = field.name.replace("_", "-")
        found |= {prefix + name, f"{prefix}no-{name}"}
        if dataclasses.is_dataclass(types[field.name]):
            found |= flags(types[field.name], f"{prefix}{name}.") | flags(types[field.name], prefix)
    return found


def test_flags_that_pages_name_are_there():
    known = {}
    for path in (path for path in FILES if not path.name.startswith("test_")):
        for name, command in re.findall(r'cli\.parse\((\w+), \w+, "([\w.]+)"', path.read_text()):
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            known[command] = flags(getattr(module, name))
    assert len(known) > 30
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command, rest in re.findall(r"python -m (\w+_jax[\w.]*|tests\.\w+)([^\n`#;|&]*)", text):
            unknown = set(re.findall(r"(?<!\S)--[a-z][\w.-]*", rest)) - known[command]
            assert not unknown, f"{page.name}: {command} has no {unknown}"
        unknown = set(re.findall(r"`(--[a-z][\w.-]*\w)", text)) - set.union(*known.values())
        assert not {flag for flag in unknown if not flag.startswith("--xla_")}, f"{page.name}: no command has {unknown}"


def test_links_of_pages_lead_somewhere_and_the_readme_to_every_page():
    led_to = set()
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if link.startswith("https://"):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.is_file(), f"{page.name} links to {link}"
            titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", target.read_text(), flags=re.DOTALL), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, f"{page.name} links to {link}"
            led_to |= {target} if page.name == "README.md" else set()
    assert not set(PAGES) - led_to - {ROOT / "README.md"}


@pytest.mark.parametrize(
    "slice, ends, asked",
    [
        ("CREATING ACTIVE", "0", 1),
        ("ACTIVE SUSPENDING SUSPENDED ACTIVE", "143 0", 2),
        ("ACTIVE FAILED ACTIVE", "1 0", 2),
        ("ACTIVE ACTIVE", "255 0", 1),
        ("ACTIVE ACTIVE", "2", 1),
        ("ACTIVE ACTIVE", "1", 1),
    ],
)
def test_the_loop_for_preemptions_ends_with_the_job_or_with_an_error_of_its_own(slice, ends, asked, tmp_path):
    """Of docs/tpu.md; what the slice is at each look, how the job ends, and how often a slice is asked for."""
    loop = next(block for block in re.findall(r"```\n(.*?)```", (ROOT / "docs/tpu.md").read_text(), re.DOTALL) if "while sleep" in block)
    for name, words in (("slice", slice), ("ends", ends)):
        (tmp_path / name).write_text("".join(f"{word}\n" for word in words.split()))
    stubs = """
    sleep() { test -s slice; }
    first() { head -n 1 $1; sed -i 1d $1; }
    gcloud() { case "$*" in *describe*) first slice ;; *create*) echo >> asked ;; *videodit_jax.train*) echo >> jobs; return $(first ends) ;; esac; }
    """
    subprocess.run(["bash", "-c", f"{stubs}\n{loop}"], cwd=tmp_path, check=True)
    assert not (tmp_path / "slice").read_text()
    assert [len((tmp_path / name).read_text()) for name in ("jobs", "asked")] == [len(ends.split()), asked]
