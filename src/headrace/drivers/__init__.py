"""What sources and sinks of the same system share: how it is reached, and never what is done there."""
