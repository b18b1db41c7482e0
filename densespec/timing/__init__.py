"""How fast what a user has runs on this machine: models of backends, and exported files.

Each candidate runs in a process of its own, as in use: it starts, answers once, and then takes
turns with the others, so that a machine whose speed drifts slows all of them.
"""

from densespec.timing.candidates import Candidate as Candidate
from densespec.timing.candidates import candidates_of as candidates_of
from densespec.timing.measuring import TimedNetwork as TimedNetwork
from densespec.timing.measuring import TimingPlan as TimingPlan
from densespec.timing.measuring import measure as measure
