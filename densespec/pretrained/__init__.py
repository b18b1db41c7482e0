"""Finds trained weights by name: where they are published, and what goes with them.

Each row of the registry describes one published file: where it is, its digest, its network, what
its images need and what its classes are. Rows are data, in ``rows``; other packages add theirs
under the entry-point group ``densespec.pretrained``, and users by files of their own.
"""
