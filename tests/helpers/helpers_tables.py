"""Small tables that several tests share."""

import numpy as np
import pandas as pd


def scaling_table(
    difference: list[float], nu_error: list[float], nu_reconstruction: list[float], half_width: float = 0.0
) -> pd.DataFrame:
    """What latent_scaling gives, as far as later stages read it. Mirrored ratios are 1 - nu."""
    error, reconstruction = np.asarray(nu_error, float), np.asarray(nu_reconstruction, float)
    return pd.DataFrame(
        {
            "latent": range(len(difference)),
            "frequency": 0.0123,
            "relative_norm_difference": np.asarray(difference, np.float32),
            "nu_error": error,
            "nu_reconstruction": reconstruction,
            "nu_error_low": error - half_width,
            "nu_reconstruction_low": reconstruction - half_width,
            "nu_error_high": error + half_width,
            "nu_reconstruction_high": reconstruction + half_width,
            "mirrored_nu_error": 1 - error,
            "mirrored_nu_reconstruction": 1 - reconstruction,
            "control_beta_error_chat": 0.01,
        }
    )
