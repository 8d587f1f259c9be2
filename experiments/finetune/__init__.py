"""Fine-tuning at a reduced scale (Table 2)."""
