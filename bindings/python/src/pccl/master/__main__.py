"""``python -m pccl.master [OPTIONS]`` becomes the program ``pccl-master``, with its options; ``--help`` lists them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def master_program() -> str:
    """The program in the package, else that of the checkout the package runs from, else the first on PATH.

    Ends the process when there is none, and says where to get one.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package / "bin" / "pccl-master"]
    if package.parts[-4:] == ("bindings", "python", "src", "pccl"):
        places.append(package.parents[3] / "dist" / "bin" / "pccl-master")
    for place in places:
        if os.access(place, os.X_OK):
            return str(place)
    found = shutil.which("pccl-master")
    if found is None:
        raise SystemExit(
            "python -m pccl.master: this package was built without the program pccl-master, and there is none on PATH. "
            "Install the wheel that `make wheel` builds, or the Debian package pccl-tools."
        )
    return found


def main() -> None:
    # Not a child: whoever ends or watches this process ends or watches the master.
    program = master_program()
    os.execv(program, [program, *sys.argv[1:]])


if __name__ == "__main__":
    main()
