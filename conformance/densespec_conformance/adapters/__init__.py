"""Plain constructors of networks are made into backends, and so are exported files.

``backend_for("torchvision.models:densenet121", spec)`` answers what a backend written for densespec
does, for one network; the constructors may be torchvision's, timm's, Keras's or your own. Nothing
here imports a framework before the constructor does, or the runtime of a file.
"""

from __future__ import annotations

from densespec_conformance.adapters.backend import ConstructorBackend as ConstructorBackend
from densespec_conformance.adapters.backend import backend_for as backend_for
from densespec_conformance.adapters.exported import ExportedFileBackend as ExportedFileBackend
