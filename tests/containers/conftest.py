"""What PyTorch and h5py write and read is what files are compared with here."""

from __future__ import annotations

from densespec.installed import is_installed

collect_ignore_glob = [] if is_installed("torch") and is_installed("h5py") else ["test_*.py"]
