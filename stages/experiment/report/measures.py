"""The measures by which optimizers are compared; conclusions rest on the first."""

from typing import NamedTuple


class Measure(NamedTuple):
    """A column of the outcomes, and the column of the tuning that is closest to it."""

    label: str
    unit: str
    in_tuning: str  # a tuning does not see the test set
    lower_is_better: bool = True


MEASURES = {
    "test_loss_nats": Measure("test loss, last epoch", "nats", "validation_loss_nats"),
    "test_accuracy_share": Measure(
        "test accuracy, last epoch", "share", "validation_accuracy_share", lower_is_better=False
    ),
    "best_validation_loss_nats": Measure(
        "best validation loss of all epochs", "nats", "best_validation_loss_nats"
    ),
    "train_loss_nats": Measure("train loss, last epoch", "nats", "train_loss_nats"),
}
