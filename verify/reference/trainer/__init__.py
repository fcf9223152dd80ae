"""google/automl's training step in plain TensorFlow: what a port that trains is compared with."""
