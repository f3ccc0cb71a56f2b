"""One-2-3-45 (Liu et al. 2023): one picture, views of the other sides, a signed distance field, a coloured mesh."""

from backend.pipelines.one2345.pipeline import One2345

PIPELINE = One2345()
