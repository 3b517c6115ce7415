"""What methods learn on the bundled world: the claims of the README's first table."""

import json

import pytest

from cdc_jax import train

pytestmark = [
    pytest.mark.slow,  # trains for many steps
    pytest.mark.usefixtures("full_optimization"),
]


def lines(workdir, method):
    text = (workdir / method / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_the_first_result(get_config, tmp_path):
    # The README's command, shorter and with another seed: the probe learns the correlation, and
    # prompts hold new classes. Of 240 images, five (two points) more or less are right on another
    # kind of CPU.
    shorter = "seed=11,world.test_images=20,cdc.optimizer.epochs=20,cdc_plus.optimizer.epochs=40"
    results = train.train_and_evaluate(get_config("fewshot", shorter), tmp_path)
    zero_shot, probe, *prompts = (results[name]["summary"] for name in results)
    assert 85 < zero_shot["base_int"] < 99
    assert probe["base_iid"] - probe["base_int"] > 20
    assert len(prompts) == 4
    for tuned in prompts:
        assert tuned["base_iid"] > probe["base_int"] + 20
        assert tuned["new_int"] > zero_shot["new_int"] - 5
    logged = lines(tmp_path, "coop")
    assert logged[-1]["loss"] < 0.85 * logged[0]["loss"]


def test_coop_learns_and_consistency_holds_it_back(get_config, tmp_path):
    argument = "world.test_images=1,evaluation_batch_size=12,methods=coop,coop_con"
    for name in ("coop", "coop_con"):
        argument += f",{name}.optimizer.epochs=15,{name}.views=clean"
    results = train.train_and_evaluate(get_config("fewshot", argument), tmp_path)
    logs = {name: lines(tmp_path, name) for name in results}
    for name in results:
        assert logs[name][-1]["classification"] < 0.9 * logs[name][0]["classification"]
    assert logs["coop_con"][-1]["consistency"] < logs["coop"][-1]["consistency"] / 2
