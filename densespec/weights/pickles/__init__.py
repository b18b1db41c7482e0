"""Reads pickles without running anything, by one restricted machine for all files with pickles.

A pickle is a program: Python's unpickler imports what it names, and calls it. Here its instructions
are interpreted, and an inert stand-in records what would be imported or called. The readers of each
kind of file look for the stand-ins that they know, such as a tensor's, and turn them into what they
need.
"""
