"""Measures how fast backends' models and exported files run on this machine.

Each candidate runs in a process of its own, as it does in use. It starts, answers once, and then
takes turns with the others. So a machine whose speed drifts slows all of them.
"""

from densespec.timing.candidates import Candidate as Candidate
from densespec.timing.candidates import candidates_of as candidates_of
from densespec.timing.measuring import TimedNetwork as TimedNetwork
from densespec.timing.measuring import TimingPlan as TimingPlan
from densespec.timing.measuring import measure as measure
