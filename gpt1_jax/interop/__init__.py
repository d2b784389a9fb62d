"""Other programs' formats of the model: each is read into, and written from, `published.LanguageModel`."""
