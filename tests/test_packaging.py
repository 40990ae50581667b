# SPDX-License-Identifier: Apache-2.0
"""The wheel holds what it should, works without the source tree, and mypy sees the same tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
    "scikit-build"
]["wheel"]["packages"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel in the build folder of the editable install, so that little is compiled."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_python_and_data_file_under_its_import_name(wheel: Path) -> None:
    expected = {
        f"{target}/{path.relative_to(ROOT / source)}"
        for target, source in PACKAGES.items()
        for path in (ROOT / source).rglob("*")
        if path.suffix in (".py", ".toml", ".h", ".html")
        and not {"src", "native"} & {*path.relative_to(ROOT).parts}
    }
    expected |= {
        "enginery/py.typed",
        "enginery/runtime/lib/libenginery.so",
        "enginery/triton_backend/lib/libtriton_enginery.so",
        "enginery/triton_backend/lib/libtriton_http_queue.so",
    }
    assert not expected - set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_no_sources_of_the_core(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".cc", ".o", ".a", "CMakeLists.txt"))]
    assert not [name for name in names if "/src/" in name or "/native/" in name]


def test_installed_wheel_imports_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    # -S leaves out the environment's start-up files and with them the editable install.
    places = [str(tmp_path / "site"), sysconfig.get_path("purelib")]
    script = (
        f"import sys; sys.path[:0] = {places}\n"
        "import enginery, enginery.builder, enginery.configs, enginery.plugins\n"
        "import enginery.quantization, enginery.runtime, enginery.triton_backend\n"
        "import enginery.cli.main, ctypes\n"
        "from pathlib import Path\n"
        "folder = Path(enginery.runtime.__file__).parent\n"
        "library = ctypes.CDLL(str(folder / 'lib' / 'libenginery.so'))\n"
        "library.enginery_version.restype = ctypes.c_char_p\n"
        "assert library.enginery_version().decode() == enginery.__version__\n"
        "print(folder)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()) == tmp_path / "site" / "enginery" / "runtime"


def test_source_folder_that_hides_the_package_is_told(tmp_path: Path) -> None:
    """Python started in the checkout finds its folder `enginery` first, a part of the package."""
    (tmp_path / "enginery").mkdir()
    shutil.copy(ROOT / "enginery" / "__init__.py", tmp_path / "enginery")
    shutil.copy(ROOT / "enginery" / "llm.py", tmp_path / "enginery")
    ran = subprocess.run(
        [sys.executable, "-S", "-c", "from enginery import LLM"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"ImportError: {tmp_path} is enginery's source" in ran.stderr.splitlines()[-1]


def test_importing_the_package_loads_no_heavy_module() -> None:
    script = "import enginery, enginery.cli.main, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert not loaded & {"torch", "transformers", "tritonclient", "numpy"}
    assert "enginery.runtime.library" not in loaded


def test_typing_shim_maps_every_package_and_every_module_of_the_facade() -> None:
    shim = ROOT / "typings" / "enginery"
    wanted = {
        target.removeprefix("enginery/"): ROOT / source
        for target, source in PACKAGES.items()
        if target != "enginery"
    }
    for path in (ROOT / "enginery").iterdir():
        if path.suffix in (".py", ".typed") or (path / "__init__.py").exists():
            wanted[path.name] = path
    found = {path.name: path.resolve() for path in shim.iterdir()}
    assert found == wanted, "link what is missing: ln -s ../../enginery/NAME typings/enginery/NAME"
