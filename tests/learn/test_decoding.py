"""Labels and probabilities under torch's own loss functions, which fastai's `predict` gives as logits."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner

LABELS = {True: [["a"], ["a", "b"], ["b"], ["a"]] * 3, False: ["a", "b"] * 6}


@pytest.fixture(scope="module", params=[True, False], ids=["several labels", "one label"])
def case(request, tmp_path_factory):
    """A learner whose loss function is torch's, and whether an image may have several labels."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(root / f"{number:02}.png")
    files = sorted(root.iterdir())
    dls = MedDataLoaders.from_lists(
        root, files, LABELS[request.param], size=32, split="random", bs=4, progress=False, device="cpu"
    )
    loss = nn.BCEWithLogitsLoss() if request.param else nn.CrossEntropyLoss()
    return med_learner(dls, "timm/test_efficientnet", weights=None, loss_func=loss), request.param


def test_predict_gives_the_label_and_its_probabilities(case):
    learn, several = case
    loss, batch = learn.loss_func, learn.dls.valid.one_batch()[0]
    with torch.inference_mode():
        logits = learn.model.eval()(batch)
    wanted = (logits.sigmoid() if several else logits.softmax(1))[0]
    with learn.no_bar():
        label, index, probs = learn.predict(learn.dls.valid.items[0])
    np.testing.assert_allclose(probs, wanted, atol=1e-4)
    vocab = list(learn.dls.vocab)
    if several:
        assert list(label) == [name for name, p in zip(vocab, wanted, strict=True) if p >= 0.5]
    else:
        assert label == vocab[int(index)] == vocab[int(wanted.argmax())]
    assert learn.loss_func is loss


def test_results_are_shown_under_labels(case):
    learn, _ = case
    loss = learn.loss_func
    with learn.no_bar():
        learn.show_results(max_n=2)
    titles = [axis.get_title() for axis in plt.gcf().axes if axis.get_title()]
    plt.close("all")
    names = {name for title in titles for name in title.replace(";", "\n").split("\n") if name}
    assert titles and names <= set(learn.dls.vocab)
    assert learn.loss_func is loss
