"""One step: update rule, schedule, losses, evaluation, pixels to network input."""
