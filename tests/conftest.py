"""Settings that hold for every test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadlines: what is tested compiles kernels and starts processes on machines that are shared.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# In CI a failure must be the commit's and not the seed's; elsewhere every run looks further.
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
