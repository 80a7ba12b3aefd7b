"""The native module. Everything else about the package is in pyproject.toml.

The extension is optional: where it cannot be compiled, the package installs without it and ``cext`` runs on
its pure-Python twin. It is never compiled for the processor of the build machine: kernels that need more than
the architecture's baseline carry their own target attribute, and are chosen at run time.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = (
    "sha256",
    "sha256_portable",
    "sha256_shani",
    "sha256_avx2",
    "sha256_avx512",
    "sha256_armv8",
    "crc32c",
    "txscan",
    "ripemd160",
    "payment",
)

HEADERS = ("sha256", "sha256_lanes", "crc32c", "txscan", "payment")

modules = cythonize(
    [
        Extension(
            "cext._native",
            sources=["cext/_native.pyx", *(f"cext/kernels/{name}.c" for name in KERNELS)],
            depends=[
                "cext/payments.pxi",
                *(f"cext/kernels/{name}.h" for name in HEADERS),
            ],
            include_dirs=["cext"],
            extra_compile_args=["-O3", "-g0"],
        )
    ]
)
for module in modules:
    module.optional = True  # cythonize() drops it when it is given above.

setup(ext_modules=modules)
