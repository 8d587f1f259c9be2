"""Text in, batches for masked language modelling out; start at `pipeline`."""
