"""Making a bundle's source artefacts from source data."""
