//! Engine packages: manifest, hashes, golden image.
