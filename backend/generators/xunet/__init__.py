"""The X-UNet of 3DiM: a pose-conditional diffusion model of views."""
