"""What a run of training has around the loop: what it begins with, its files, its logs, its evaluation."""
