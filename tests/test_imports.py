"""Imports within the package: layers depend only on those below, and there are no circular imports."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import convlane

PACKAGE = Path(convlane.__file__).parent
LAYERS = [  # lowest first; packages of one layer do not import each other
    {"_core"},
    {"_files", "_floats", "_hooks", "_openmp", "_progress", "_table", "_version"},
    {"runtime"},
    {"machine", "safetensors_file"},
    {"functional"},
    {"filters", "nn", "vision", "weights"},
    {"autograd", "graph"},
    {"models", "onnx"},
    {"analysis", "data", "training"},
    {"bridges", "digits", "inference", "scale"},
    {"cli"},
    {"__init__", "__main__"},
]
FILES = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in PACKAGE.rglob("*.py")}


def imported(path):
    """Yield what a file imports from the package, anywhere in it: files as in `FILES`, or the extension module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not used here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for root, *parts in (name.split(".") for name in names):
            if root == "convlane":
                yield file_of(tuple(parts))


def file_of(parts):
    """Return the file of a dotted name, whose last part may be a name that is defined in the file."""
    if parts[:1] == ("_core",):
        return ("_core",)
    candidates = (parts, (*parts, "__init__"), parts[:-1], (*parts[:-1], "__init__"))
    return next(file for file in candidates if file in FILES)


def test_layers_import_only_those_below_them():
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    upward = [
        f"{path.relative_to(PACKAGE)} imports convlane.{'.'.join(other)}"
        for file, path in FILES.items()
        for other in imported(path)
        if other[0] != file[0] and level[other[0]] >= level[file[0]]
    ]
    assert not upward


def test_there_are_no_circular_imports():
    graph = {file: {other for other in imported(path) if other in FILES} - {file} for file, path in FILES.items()}
    TopologicalSorter(graph).prepare()  # raises a CycleError that shows the cycle


def test_importing_the_package_imports_little():
    """To run an operation, neither networks nor files have to be imported, each of which takes milliseconds."""
    code = "import sys, numpy; before = set(sys.modules); import convlane; print(*set(sys.modules) - before)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {name.removeprefix("convlane.").split(".")[0] for name in result.stdout.split() if "convlane." in name}
    assert names == {"_core", "_floats", "_hooks", "_openmp", "_version", "functional", "runtime"}
    others = {name.split(".")[0] for name in result.stdout.split()} & sys.stdlib_module_names
    assert not others & {"argparse", "asyncio", "fcntl", "json", "pathlib", "subprocess", "tempfile", "urllib", "zlib"}


def test_what_is_imported_later_is_found():
    for name in convlane.__all__:
        assert getattr(convlane, name) is not None
    code = "from convlane.weights import load_weights; import convlane; convlane.nn.Linear(2, 3).summary((1, 2))"
    subprocess.run([sys.executable, "-c", code], check=True)
