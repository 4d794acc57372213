"""The emulation under TensorRT's name."""

from emulated_tensorrt import *  # noqa: F403

__version__ = "10.3.0"
