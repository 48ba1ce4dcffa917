"""Tables and figures of the studies, and their conclusion. Nothing here trains."""
