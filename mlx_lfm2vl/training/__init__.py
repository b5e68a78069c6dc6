"""Fine-tuning: samples with a loss mask, batches, the loop, and its log."""
