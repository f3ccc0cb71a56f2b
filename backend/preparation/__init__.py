"""From any picture to the framed cutout that the networks expect."""
