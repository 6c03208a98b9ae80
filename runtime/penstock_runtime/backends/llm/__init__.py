"""Language models in the folders of Hugging Face, executed by penstock's own engine."""
