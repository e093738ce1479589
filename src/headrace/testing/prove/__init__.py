"""`headrace prove`: a user's own pipeline, killed, paused, starved and doubled in a scratch directory."""
