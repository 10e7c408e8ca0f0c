"""Which structures are unknown: active set, extrapolation grade, coverage, calibration, outliers."""
