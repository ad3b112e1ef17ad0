"""Imported by a fork server in a test: starts CUDA there, as bitsandbytes does on a machine with a card."""

import ctypes

ctypes.CDLL("libcuda.so.1").cuInit(0)
