"""The bundled causal world: a few thousand images a second, every generative factor known.

`factors` are drawn and intervened on, `render` draws them, `captions` describes them, `kinds` and
`fewshot` make tasks with spurious correlations, `vocabulary` holds the bundled CLIP's words.
"""
