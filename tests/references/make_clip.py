"""Made `clip.npz`: what transformers' own CLIP models answer to `clip_reference.inputs`.

Run twice, in two virtual environments; the second run adds to the file of the first:
  pip install torch==2.13.0 transformers==5.23.0 && python make_clip.py
  pip install transformers==4.57.6 flax && python make_clip.py
"""

from pathlib import Path

import clip_reference as reference
import numpy as np
import transformers

FILE = Path(__file__).with_name("clip.npz")


def with_torch(config, tensors, pixels, token_ids):
    import torch

    model = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
    model.load_state_dict({name: torch.tensor(x) for name, x in tensors.items()})
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(token_ids.astype(np.int64)),
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)),
        )
    images = output.vision_model_output.pooler_output  # projected, not normalised
    texts = output.text_model_output.pooler_output
    return images.numpy(), texts.numpy(), output.logits_per_image.numpy()


def with_flax(config, tensors, pixels, token_ids):
    import flax.traverse_util

    tree = reference.flax_tree(tensors)
    model = transformers.FlaxCLIPModel(transformers.CLIPConfig(**config))
    shapes = [
        {name: np.shape(x) for name, x in flax.traverse_util.flatten_dict(t, sep=".").items()}
        for t in (tree, model.params)
    ]
    assert shapes[0] == shapes[1]
    pixels = pixels.transpose(0, 3, 1, 2)
    output = model(input_ids=token_ids, pixel_values=pixels, params=tree)
    texts = model.get_text_features(token_ids, params=tree)
    images = model.get_image_features(pixels, params=tree)
    return images, texts, output.logits_per_image


def main():
    flax = transformers.__version__.startswith("4.")
    stored = {}
    if FILE.exists():
        with np.load(FILE, allow_pickle=False) as file:
            stored = dict(file)
    for name, config in reference.CONFIGS.items():
        answers = (with_flax if flax else with_torch)(
            config, reference.weights(config), *reference.inputs(config)
        )
        for kind, answer in zip(("images", "texts", "logits"), answers, strict=True):
            stored[f"{'flax' if flax else 'torch'}/{name}/{kind}"] = np.asarray(answer)
    np.savez(FILE, **stored)


if __name__ == "__main__":
    main()
