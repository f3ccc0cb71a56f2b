"""3DiM (Watson et al. 2022): any number of pictures, views that agree with them and one another, a coloured mesh."""

from backend.pipelines.threedim.pipeline import ThreeDim

PIPELINE = ThreeDim()
