"""Commands that people type: small programs over the files of the pipeline; `stages/` holds what DVC runs."""
