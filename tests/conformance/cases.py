"""What the conformance suite runs: every part, and combinations that cross kinds."""

CASES = {
    "source": {},
    "batch": {},
    "alpha": {},
    "alpha+tent": {"alpha": {"of": "image"}},
    "ema": {},
    "unmix_tns": {"unmix_tns": {"components": 4}},
    "batch+tent": {},
    "source+tent": {"tent": {"optimizer": "sgd", "nesterov": True}},
    "batch+eta": {"eta": {"e_margin": 0.9, "d_margin": 0.95}},
    "batch+rdumb": {"rdumb": {"e_margin": 0.9, "reset_every": 2}},
    "source+lame": {},
    "batch+lame": {"lame": {"kernel": "knn", "k": 3}},
    "ema+tent+lame": {"lame": {"kernel": "linear", "iterations": 10}},
    "unmix_tns+tent": {},
    "unmix_tns+eta+lame": {"unmix_tns": {"components": 1}, "eta": {"e_margin": 0.9}},
    "batch+eata": {"eata": {"e_margin": 0.9, "d_margin": 0.95}},
    "unmix_tns+eata+lame": {"eata": {"e_margin": 0.9, "lr": 1e-5}},
    "batch+sar": {"sar": {"e_margin": 0.9, "recovery": 0.5}},
    "source+sar": {"sar": {"e_margin": 0.9, "keep_momentum": True}},
    "unmix_tns+rdumb": {"rdumb": {"e_margin": 0.9, "reset_every": 2}},
}
