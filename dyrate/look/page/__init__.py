"""The page of looks at images: one player for `dyrate look` and for a study's survival."""
