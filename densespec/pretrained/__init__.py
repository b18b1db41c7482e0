"""Trained weights by name: where they are published, and what goes with them.

A row of the registry says of one published file where it is, by which digest it is known, which
network it is of, and what its images and classes are. Rows are data, in ``rows``; other packages
add theirs under the entry-point group ``densespec.pretrained``, and users by files of their own.
"""
