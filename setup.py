"""Compiles the hot paths: every ext/<folder>/<name>.pyx becomes the extension module ext.<folder>.<name>."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# `make sanitize` adds flags here; the default build is optimised for the machine family, not for this one machine.
FLAGS = os.environ.get("UNBROKEN_CFLAGS", "-O3 -g0").split()
LINK = os.environ.get("UNBROKEN_LDFLAGS", "").split()
# What only tells about the distribution, or packs its sources, needs none of them compiled.
COMPILES = {"sdist", "egg_info", "dist_info"}.isdisjoint(sys.argv)

ROOMS = [
    Extension(".".join(path.with_suffix("").parts), [str(path)], extra_compile_args=FLAGS, extra_link_args=LINK)
    for path in sorted(Path("ext").glob("*/*.pyx"))
]
if not ROOMS:
    raise SystemExit("ext/*/*.pyx: not found; without these modules nothing works")


def compiled() -> list[Extension]:
    return cythonize(
        ROOMS,
        language_level=3,
        # Nothing here is pickled, and docstrings hold no doctests: the names for both stay out of the modules' faces.
        compiler_directives={
            "embedsignature": True,
            "embedsignature.format": "python",
            "auto_pickle": False,
            "autotestdict": False,
        },
    )


setup(ext_modules=compiled() if COMPILES else ROOMS)
