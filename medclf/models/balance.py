"""How rare classes are made to count in training, and how that is taken back, so that probabilities stay true.

A classifier fitted with weights gives each class the probability that it would have if the classes were as frequent as
their weights make them. Adding the logarithm of the weight inside the loss, or taking it off afterwards, gives the
training set's own frequencies back, exactly (Saerens et al. 2002, "Adjusting the outputs of a classifier to new a
priori probabilities"; Menon et al. 2021, "Long-tail learning via logit adjustment").

- `loss`: rare classes weigh more; `sampling`: they are drawn more often.
- `focal`: what is answered well counts little (Lin et al. 2017), the weight taken as a number. Its optimum has logits
  that are 1 + gamma times too small: exactly for two classes and for several labels an image, about so for more.
- `logits`: the logarithm of the frequencies is added in the loss and to the answers, which is the plain loss; it is the
  decision that is balanced (`decide`).
"""

from __future__ import annotations

import numpy as np

from medclf.config import Balance

GAMMA = 2.0  # as Lin et al. have it
WEIGHTED = ("loss", "sampling")


def class_weights(targets: np.ndarray, n_out: int) -> np.ndarray:
    """(n_out,) what an image of each class weighs so that all classes count alike.

    Of several labels an image: what one with the label weighs beside one without.

    Args:
        targets: (n,) classes in [0, n_out), or (n, n_out) 0/1.
        n_out: how many classes or labels there are. One that no image has, or every image, weighs 1.

    Example:
        >>> class_weights(np.array([0, 0, 0, 1]), 2).round(2).tolist()
        [0.67, 2.0]
        >>> class_weights(np.array([[1, 0], [0, 0], [0, 0]]), 2).tolist()
        [2.0, 1.0]
    """
    if targets.ndim == 2:
        present = (targets == 1).sum(0)
        absent = len(targets) - present
        return np.where((present > 0) & (absent > 0), absent / np.maximum(present, 1), 1.0)
    counts = np.bincount(targets.astype(int), minlength=n_out)
    return np.where(counts > 0, len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 1.0)


def draw_weights(targets: np.ndarray, n_out: int) -> np.ndarray:
    """(n,) how often each image is drawn, relative to the others; of several labels the mean of what each asks for."""
    weights = class_weights(targets, n_out)
    if targets.ndim == 1:
        return np.asarray(weights[targets.astype(int)])
    return np.asarray(np.where(targets == 1, weights, 1.0).mean(axis=1))


def drawn_as(targets: np.ndarray, n_out: int) -> np.ndarray:
    """(n_out,) the class weights that drawing by `draw_weights` amounts to.

    Example:
        >>> drawn_as(np.array([[1, 0], [0, 0], [0, 0]]), 2).tolist()
        [1.5, 1.0]
    """
    if targets.ndim == 1:
        return class_weights(targets, n_out)
    drawn = draw_weights(targets, n_out)
    of_label = class_weights(targets, n_out)
    for k in np.flatnonzero(of_label != 1):
        with_it = targets[:, k] == 1
        of_label[k] = drawn[with_it].mean() / drawn[~with_it].mean()
    return of_label


def focal_weights(probs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) weights of focal loss at its optimum, from honest (n, classes) probabilities and (n,) classes."""
    small = probs ** (1 / (1 + GAMMA))
    own = small[np.arange(len(y)), y] / small.sum(axis=1)
    return np.asarray((1 - own) ** GAMMA)


def taken_back(
    weight: np.ndarray,
    bias: np.ndarray,
    probs: np.ndarray,
    balance: Balance,
    weights: np.ndarray | None,
    multi_label: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A linear classifier's weights, biases and (n, n_out) probabilities without what the balance did to them.

    Example:
        >>> half, weights = np.array([[0.5, 0.5]]), np.array([1, 3])
        >>> taken_back(np.ones((2, 1)), np.zeros(2), half, "loss", weights, False)[2].tolist()
        [[0.75, 0.25]]
    """
    scale = 1 + GAMMA if balance == "focal" else 1.0
    shift = np.log(weights) if balance in WEIGHTED and weights is not None else np.zeros(len(bias))
    if multi_label:
        odds = (probs / np.maximum(1 - probs, 1e-12)) ** scale * np.exp(-shift)
        found = odds / (1 + odds)
    else:
        powers = probs**scale * np.exp(-shift)
        found = powers / powers.sum(axis=1, keepdims=True)
    return weight * scale, bias * scale - shift, found
