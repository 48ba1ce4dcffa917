"""What the published experiment reported, and the outcomes that a repetition compares."""

from typing import Any, NamedTuple

# The hyperparameters that its searches found, and that it trained with.
REPORTED: dict[str, dict[str, Any]] = {
    "adam": {"lr": 0.0059},
    "lrg_adam": {"lr": 0.0064, "rank": 20},
}


class Outcome(NamedTuple):
    """What a final training ends with."""

    label: str
    unit: str
    lower_is_better: bool = True


OUTCOMES = {
    "last_loss_nats": Outcome("validation loss, last epoch", "nats"),
    "best_loss_nats": Outcome("validation loss, best epoch", "nats"),
    "last_accuracy_share": Outcome("validation accuracy, last epoch", "share", False),
}
