"""One program for each engine, run in the environment that has it; they import nothing of ours but
`turns`, except for our own engine and transformers'.
"""
