"""Model formats of other programs, each read into and written from `published.LanguageModel`."""
