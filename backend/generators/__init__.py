"""From one picture to views of the other sides."""
