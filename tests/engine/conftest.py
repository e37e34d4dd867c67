"""The contract's assertions tell what they saw, as those of a test file do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("engine.contract")
