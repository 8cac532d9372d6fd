"""Packs what `make lib` built into the wheel. All else about the package is in pyproject.toml."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Optional

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[2]


def library_to_pack() -> Path:
    """The library named by PCCL_LIBRARY, else what `make lib` leaves in dist/lib of the checkout."""
    named = os.environ.get("PCCL_LIBRARY")
    library = Path(named) if named else ROOT / "dist" / "lib" / "libpccl.so"
    if library.is_file():
        return library
    if named:
        raise SystemExit(f"pccl: PCCL_LIBRARY names {library}, which is not a file.")
    raise SystemExit(
        f"pccl: {library} is missing. Run `make lib` in {ROOT} first, or set PCCL_LIBRARY to a libpccl.so "
        "that was built elsewhere."
    )


def master_to_pack() -> Optional[Path]:
    """The program named by PCCL_MASTER_PROGRAM, if any: it is larger than the library, and not everyone runs a master."""
    named = os.environ.get("PCCL_MASTER_PROGRAM")
    if named and not Path(named).is_file():
        raise SystemExit(f"pccl: PCCL_MASTER_PROGRAM names {named}, which is not a file.")
    return Path(named) if named else None


class BuildWithLibrary(build_py):
    """Copies the library beside the modules, and the master below them."""

    def run(self) -> None:
        super().run()
        # An editable installation has no build folder: there the package looks into dist/lib of its checkout.
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "pccl"
        shutil.copy2(library_to_pack(), package / "libpccl.so")
        master = master_to_pack()
        if master:
            (package / "bin").mkdir(exist_ok=True)
            shutil.copy2(master, package / "bin" / "pccl-master")


class PlatformDistribution(Distribution):
    """Says that the package belongs where those with machine code do, which without extension modules it would not."""

    def has_ext_modules(self) -> bool:
        return True


class PlatformWheel(bdist_wheel):
    """The library is of one platform, but of no particular Python: it is opened by cffi at run time."""

    def get_tag(self) -> "tuple[str, str, str]":
        return ("py3", "none", super().get_tag()[2])


# pip builds in the source tree. A build folder that stays there would bring modules that were deleted since into the
# next wheel, so each build gets its own.
build_folder = tempfile.mkdtemp(prefix="pccl-build-")
atexit.register(shutil.rmtree, build_folder, ignore_errors=True)

setup(
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel},
    options={"build": {"build_base": build_folder}},
)
