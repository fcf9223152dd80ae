"""What a training writes: weights, the state to go on from, logs, the page."""
