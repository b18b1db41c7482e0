"""Pickles, read without running anything: one restricted machine for every file that holds them.

A pickle is a program: Python's unpickler imports what it names and calls it. Here its instructions
are interpreted, and what would be imported or called becomes an inert stand-in that says so. Those
who read a kind of file look for the stand-ins that they know, such as a tensor's, and make of them
what they need.
"""
