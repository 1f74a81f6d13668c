"""The accuracy-controlled choice of a precision for every graph."""
