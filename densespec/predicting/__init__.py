"""Says which classes images have by trained networks, and how often that is right.

from densespec.predicting import predict, evaluate

(found,) = predict("densenet121", ["cat.jpg"], backend="torch.nn")
found.guesses[0].label, found.guesses[0].probability
evaluate("densenet121", "folder:photos", backend="torch.nn").top1
"""

from densespec.predicting.classifier import Classifier as Classifier
from densespec.predicting.classifier import classifier as classifier
from densespec.predicting.guessing import Guess as Guess
from densespec.predicting.guessing import Prediction as Prediction
from densespec.predicting.guessing import predict as predict
from densespec.predicting.scoring import Evaluation as Evaluation
from densespec.predicting.scoring import evaluate as evaluate
