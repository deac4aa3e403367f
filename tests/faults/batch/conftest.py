"""
The same scenes as those of the wire tests.
"""

from tests.wire.batch.conftest import either, scene

__all__ = ["either", "scene"]
