"""The proof of training: the same steps here and in TensorFlow (or effdet), compared value by value."""
