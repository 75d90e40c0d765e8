"""What `import redis_lab as lab` offers, and what it does not load."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import redis_lab
from redis_lab.extras import EXTRAS
from redis_lab.measure import bench, load

ROOT = Path(__file__).resolve().parents[2]
# Each takes a tenth of a second or more to load, and `import redis_lab` does without it
SLOW = {
    *("redis", "asyncio", "ssl", "socket", "subprocess", "tempfile", "multiprocessing"),
    *("numpy", "pandas", "matplotlib", "scipy", "hdrh", "IPython", "typer", "rich", "tqdm"),
    *("testcontainers", "docker", "tornado", "httpx", "nbformat", "sqlite3", "psutil"),
}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dir_lists_what_is_public_and_nothing_else():
    """In a process of its own, for here other tests have imported modules."""
    listed = run_python("import redis_lab; print(*dir(redis_lab))").split()
    assert listed == sorted(redis_lab.__all__)
    assert not any(name.startswith("_") for name in listed if name != "__version__")
    code = (
        "import redis_lab; [getattr(redis_lab, n) for n in dir(redis_lab)]; print(*dir(redis_lab))"
    )
    assert run_python(code).split() == listed, "also when everything has been used"


@pytest.mark.parametrize("name", redis_lab.__all__)
def test_everything_public_is_there(name):
    assert getattr(redis_lab, name) is getattr(redis_lab, name)


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'redis_lab' has no attribute 'bemch'"):
        redis_lab.bemch  # noqa: B018


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("results", "of", "make_result"),
        ("results", "compare", "compare_results"),
        ("theory", "kept", "share_present"),
        ("theory", "recently", "asked_within"),
    ],
)
def test_an_old_name_leads_to_the_new_one(module, old, new):
    found = getattr(redis_lab, module)
    with pytest.raises(AttributeError, match=rf"{module}\.{old} is called {module}\.{new} now"):
        getattr(found, old)
    assert new in found.__all__ and callable(getattr(found, new))


@pytest.mark.parametrize("jedi", [True, False])
def test_tab_in_ipython_offers_what_is_public(jedi):
    """By static analysis (jedi, the default) and by looking at the objects."""
    code = f"""
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.Completer.use_jedi = {jedi}
shell.run_cell("import redis_lab as lab")
for text in ("lab.", "lab.bench.", "lab.load."):
    with provisionalcompleter():
        print(*(found.text for found in shell.Completer.completions(text, len(text))))
"""
    offered = [
        {word.lstrip(".") for word in line.split()} for line in run_python(code).splitlines()
    ]
    assert offered[0] == {name for name in redis_lab.__all__ if not name.startswith("_")}
    assert offered[1:] == [set(bench.__all__), set(load.__all__)]


def test_the_magic_is_registered_by_import_and_by_load_ext():
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
has = lambda: "redis" in shell.magics_manager.magics["cell"]
before = has()
shell.run_cell("{how}")
print(before, has())
"""
    for how in ("import redis_lab", "%load_ext redis_lab"):
        assert run_python(code.replace("{how}", how)).split()[-2:] == ["False", "True"], how


def test_ipython_without_a_shell_is_no_trouble():
    assert run_python("import IPython, redis_lab; print(redis_lab.__name__)") == "redis_lab\n"


def modules_loaded_by(code: str) -> set[str]:
    """The top-level modules that code imports in a new interpreter."""
    counted = f"import sys; before = set(sys.modules); {code}; print(*set(sys.modules) - before)"
    return {name.partition(".")[0] for name in run_python(counted).split()}


def test_import_loads_nothing_slow():
    assert modules_loaded_by("import redis_lab") & {"redis_lab", *SLOW} == {"redis_lab"}


def test_measuring_loads_no_plots_and_no_notebook():
    loaded = modules_loaded_by("import redis_lab; redis_lab.bench.compare")
    assert loaded & {"redis", "matplotlib", "IPython", "typer", "scipy", "nbformat"} == {"redis"}


def test_the_version_is_the_installed_one():
    assert redis_lab.__version__ == importlib.metadata.version("redis-lab")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert redis_lab.__version__ == project["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_the_wheel_says_that_it_is_typed(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "redis_lab/py.typed" in names
    assert "redis_lab/measure/_generator.py" in names, "run as a script"


@pytest.mark.parametrize("module", [bench, load], ids=lambda m: m.__name__)
def test_a_module_lists_what_it_offers(module):
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_former_names_still_work():
    """Notebooks, also those that learners have copied, use them."""
    assert bench.FLOOR == bench.BASELINE
    assert load.InvalidRun is bench.InvalidRun
    from redis_lab import load as imported
    from redis_lab import theory

    assert imported is load and theory is redis_lab.theory


CORE_ONLY = """
import sys
sys.modules.update(dict.fromkeys({missing!r}))
sys.argv = ["redis-lab", *{words!r}]
"""
MISSING = sorted({module for modules in EXTRAS.values() for module in modules})


def run_without_extras(code: str, *words: str) -> subprocess.CompletedProcess:
    """Run code where no module of an extra can be imported, as in a core installation."""
    code = CORE_ONLY.format(missing=MISSING, words=words) + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")


def test_the_core_measures_without_any_extra():
    done = run_without_extras(
        "import redis_lab as lab\n"
        "print(*lab.bench.compare({'a': int}, baseline=False).to_frame().index)\n"
        "for name in dir(lab):\n"
        "    try: getattr(lab, name)\n"
        "    except lab.LabError as error: print(name, error)\n"
        "try: lab.rest.Gateway('redis://nowhere', None, '', 0, 1)\n"
        "except lab.LabError as error: print(error)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "a",
        "This needs tornado, which is not installed: pip install 'redis-lab[http]'",
    ]


def test_doctor_names_the_extra_of_a_kind_that_is_missing():
    """A name in brackets would be markup for rich, and would be missing."""
    done = run_without_extras("from redis_lab.cli import main; main()", "doctor")
    assert done.returncode == 0, done.stderr
    assert "pip install 'redis-lab[docker]'" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["lab"], "lab"),
        (["validate"], "test"),
        (["plots", "00_start_here", "--effort", "quick"], "lab"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_command_that_lacks_its_extra_says_so_in_one_line(words, extra):
    done = run_without_extras("from redis_lab.cli import main; main()", *words)
    assert done.returncode == 1
    trouble = " ".join(done.stderr.split())
    assert trouble.startswith("redis-lab: This needs ")
    assert trouble.endswith(f"which is not installed: pip install 'redis-lab[{extra}]'")
