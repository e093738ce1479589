"""From landed bytes of any format to one relation of texts, each row with its file and line."""
