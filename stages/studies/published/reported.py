"""What the published experiment reported, and the outcomes that a repetition compares."""

from typing import Any

# The hyperparameters that its searches found, and that it trained with.
REPORTED: dict[str, dict[str, Any]] = {
    "adam": {"lr": 0.0059},
    "lrg_adam": {"lr": 0.0064, "rank": 20},
}
OUTCOMES = {
    "last_loss_nats": "validation loss, last epoch",
    "best_loss_nats": "validation loss, best epoch",
    "last_accuracy_share": "validation accuracy, last epoch",
}
