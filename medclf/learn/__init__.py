"""TABLE -> LEARNER: the one folder that imports fastai."""
