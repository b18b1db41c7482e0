"""Plain constructors of networks are made into backends: torchvision's, timm's, Keras's, your own.

``backend_for("torchvision.models:densenet121", spec)`` answers what a backend written for densespec
does, for one network. Nothing here imports a framework before the constructor does.
"""

from __future__ import annotations

from densespec_conformance.adapters.backend import ConstructorBackend as ConstructorBackend
from densespec_conformance.adapters.backend import backend_for as backend_for
