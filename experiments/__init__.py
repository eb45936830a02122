"""Controlled experiments: what each choice in training a detector does, over several seeds.

`questions/` has one declarative file a question, `results/` one small file a finished training, and `tables/`
what the chapters read. `python -m experiments --help` lists the commands.
"""
