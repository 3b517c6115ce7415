"""The embedded causal world: a few thousand images a second, every generative factor known.

`factors` are drawn and intervened on, `render` draws them, `captions` describes them, `kinds` and
`fewshot` make tasks with spurious correlations, `vocabulary` holds the embedded CLIP's words.
"""
