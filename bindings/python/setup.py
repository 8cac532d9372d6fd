"""Packs the library that `make lib` built into the wheel. All else about the package is in pyproject.toml."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from setuptools import setup
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


class BuildWithLibrary(build_py):
    """Copies the library beside the modules."""

    def run(self) -> None:
        super().run()
        # An editable installation has no build folder: there the package looks into dist/lib of its checkout.
        if not self.editable_mode:
            shutil.copy2(library_to_pack(), Path(self.build_lib) / "pccl" / "libpccl.so")


class PlatformWheel(bdist_wheel):
    """The library is of one platform, but of no particular Python: it is opened by cffi at run time."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> "tuple[str, str, str]":
        return ("py3", "none", super().get_tag()[2])


# pip builds in the source tree. A build folder that stays there would bring modules that were deleted since into the
# next wheel, so each build gets its own.
build_folder = tempfile.mkdtemp(prefix="pccl-build-")
atexit.register(shutil.rmtree, build_folder, ignore_errors=True)

setup(
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": PlatformWheel},
    options={"build": {"build_base": build_folder}},
)
