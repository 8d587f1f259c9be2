"""What each attention can and cannot do: copy, recall, count, find a needle."""
