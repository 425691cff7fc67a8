"""What the text report does to texts; nothing in here knows of workflows."""
