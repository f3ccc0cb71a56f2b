"""What is drawn. Panels read and never change anything."""
