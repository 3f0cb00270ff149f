"""Tables: read them, and turn them into series and back."""
