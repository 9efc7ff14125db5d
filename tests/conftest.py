"""What all tests share: no property depends on how fast a machine is."""

from hypothesis import settings

settings.register_profile("sessile", deadline=None)
settings.load_profile("sessile")
