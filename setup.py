"""Builds the compiled core. Everything declarative is in pyproject.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("blazen/_core")
C_SOURCES = sorted(str(path) for path in Path("csrc").glob("*.c"))
C_HEADERS = sorted(str(path) for path in Path("csrc").glob("*.h"))
TRACE_LINES = os.environ.get("BLAZEN_COVERAGE") == "1"

COMPILE_ARGS = ["-std=c11", "-O2", "-g0", "-fvisibility=hidden"]
# Symbols are a third of the wheel, and nobody debugs a released core with them. Apple's linker has no -s.
LINK_ARGS = ["-Wl,-s"] if sys.platform == "linux" else []

# Under 3.12 and later Cython would report lines to sys.monitoring, which coverage's file tracer plugins cannot see.
TRACE_MACROS: list[tuple[str, str | None]] = [
    ("CYTHON_TRACE", "1"),
    ("CYTHON_TRACE_NOGIL", "1"),
    ("CYTHON_USE_SYS_MONITORING", "0"),
]


class BuildExt(build_ext):
    """Builds the C part once, as a static library, before the modules that link it."""

    def run(self) -> None:
        if self.distribution.has_c_libraries():
            self.run_command("build_clib")
        super().run()


# A library and not sources of every module: parallel builds would write one object file from several compilers at once.
libraries = [
    ("blazen_c", {"sources": C_SOURCES, "obj_deps": {"": C_HEADERS}, "include_dirs": ["csrc"], "cflags": COMPILE_ARGS})
]
extensions = [
    Extension(
        f"blazen._core.{source.stem}",
        [str(source)],
        include_dirs=["csrc"],
        depends=[*C_HEADERS, *C_SOURCES, *map(str, CORE.glob("*.h"))],
        define_macros=TRACE_MACROS if TRACE_LINES else [],
        extra_compile_args=COMPILE_ARGS,
        extra_link_args=LINK_ARGS,
    )
    for source in sorted(CORE.glob("*.pyx"))
]

setup(
    cmdclass={"build_ext": BuildExt},
    libraries=libraries if C_SOURCES else [],
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "linetrace": TRACE_LINES,
            # Methods as plain method descriptors: a call through a bound method costs half.
            "binding": False,
            "embedsignature": True,
            "embedsignature.format": "python",
        },
    ),
)
