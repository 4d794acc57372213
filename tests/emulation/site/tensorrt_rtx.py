"""The emulation under the name of TensorRT for RTX."""

from emulated_tensorrt import *  # noqa: F403

__version__ = "1.7.1.116"
