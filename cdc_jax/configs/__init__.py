"""The configuration files that come with the package: `get_config` of each returns an experiment.

`--config=fewshot.py` on the command line names one of them.
"""
