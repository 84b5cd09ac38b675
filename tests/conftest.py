from __future__ import annotations

import os
import zlib

# Before NumPy is imported, here and in the workers: two BLAS threads in each of two workers spin for each other's core, and
# small products take five times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # how long an example takes depends on the machine
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory):
    """What is cached (models proven on this host, compiled kernels) stays out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_numbers(request):
    """A generator that the tests of a module share begins anew for each of them: what one draws does not depend on which ran
    before it in the same process."""
    for name in ("RNG", "rng"):
        shared = getattr(getattr(request, "module", None), name, None)
        if isinstance(shared, np.random.Generator):
            seed = zlib.crc32(request.node.nodeid.encode())
            shared.bit_generator.state = np.random.default_rng(seed).bit_generator.state
