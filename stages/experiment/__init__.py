"""What the stages share: parameters, data, models, training, tuning, statistics, files."""
