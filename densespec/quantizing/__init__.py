"""Exports networks in int8, calibrated on a user's images and compared with float32.

from densespec.quantizing import export_int8

done = export_int8("best.safetensors", "net.onnx", "folder:photos")
done.comparison.agreement, done.comparison.ratios
"""

from densespec.quantizing.comparing import Comparison as Comparison
from densespec.quantizing.exporting import Int8Result as Int8Result
from densespec.quantizing.exporting import export_int8 as export_int8
