"""Other people's frameworks: scikit-learn and Lightning, imported only when asked for."""
