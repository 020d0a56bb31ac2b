"""General skills: the shipped instructions are sound, and losing them is called by its name."""

import numpy as np

from data.evaluation.general_skills import compare_general_skills, instructions
from data.evaluation.metrics import contains_answer


def test_every_instruction_is_different_and_its_own_answer_is_accepted():
    asked = instructions()
    assert len({i.instruction for i in asked}) == len({i.id for i in asked}) == len(asked) >= 40
    for item in asked:
        assert item.answer.strip()
        assert not item.accepted or contains_answer(item.answer, item.accepted), item.id


def test_the_first_few_are_of_different_kinds():
    assert len({i.kind for i in instructions(6)}) == 6


def run(base_loss, adapter_loss, right=(True, True)):
    asked = instructions()
    replies = {
        who: [i.answer if ok else "no idea" for i in asked] for who, ok in zip(("base", "adapter"), right, strict=True)
    }
    return compare_general_skills(asked, replies, {"base": base_loss, "adapter": adapter_loss}, samples=500)


def test_a_higher_loss_is_forgetting_and_the_same_loss_is_not():
    losses = np.random.default_rng(0).uniform(0.5, 2, len(instructions())).tolist()
    assert run(losses, [x + 0.3 for x in losses])["verdict"] == "forgets"
    assert run(losses, [x - 0.3 for x in losses])["verdict"] == "improves"
    same = run(losses, losses, right=(True, False))
    assert same["verdict"] == "unchanged"
    assert same["loss"]["difference"] == 0
    assert (same["correct"]["base"], same["correct"]["other"]) == (1, 0)


def test_a_loss_that_is_not_a_number_is_counted_and_left_out():
    losses = [1.0] * len(instructions())
    comparison = run(losses, [float("nan"), *losses[1:]])
    assert comparison["not_finite"] == 1
    assert comparison["loss"]["n"] == len(losses) - 1


def test_a_handful_of_instructions_gives_no_verdict():
    asked = instructions(4)
    comparison = compare_general_skills(
        asked, {"base": ["x"] * 4, "adapter": ["x"] * 4}, {"base": [1.0] * 4, "adapter": [2.0] * 4}
    )
    assert comparison["verdict"] == "too few to say"
    assert comparison["loss"]["difference"] == 1
