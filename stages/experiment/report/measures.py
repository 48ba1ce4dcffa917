"""The measures on which optimizers are compared."""

from typing import NamedTuple


class Measure(NamedTuple):
    """A column of the outcomes, and the closest column of the tuning table."""

    label: str
    unit: str
    in_tuning: str  # tuning does not use the test set
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
# The measure that conclusions rest on.
PRIMARY = next(iter(MEASURES))
# The validation loss of a replicate before training and after every epoch.
CURVE = "validation_losses_nats"
