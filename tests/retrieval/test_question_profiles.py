"""Golden T14: separable domains are told apart, and what is near none of them belongs to none."""

import numpy as np
import pytest

from retrieval.routing import Profile, make_profile, quantised


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype("f4")


def around(middle, count, seed, spread=0.15):
    rng = np.random.default_rng(seed)
    return unit(middle + spread * rng.normal(size=(count, len(middle))))


@pytest.fixture
def middles():
    return unit(np.random.default_rng(0).normal(size=(5, 64)))


def test_separable_clusters_are_routed_without_a_mistake_and_the_rest_to_nobody(middles):
    *domains, foreign = middles
    profiles = [make_profile(around(middle, 40, n), around(middle, 100, n + 50)) for n, middle in enumerate(domains)]
    passed = 0
    for number, middle in enumerate(domains):
        questions = around(middle, 300, number + 90)
        scores = np.array([profile.scores(questions) for profile in profiles])
        assert (scores.argmax(axis=0) == number).all()
        passed += (scores[number] >= profiles[number].threshold).sum()
    assert passed / (300 * len(domains)) > 0.95, "about 1 % of its own questions may miss"
    strange = around(foreign, 300, 1)
    assert not any((profile.scores(strange) >= profile.threshold).any() for profile in profiles)


def test_a_domain_of_two_subjects_keeps_its_questions_from_a_neighbour_of_one_subject(middles):
    one, other, nothing = middles[0], middles[1], np.zeros((0, 64), "f4")
    both = np.concatenate([around(one, 40, 0, 0.05), around(other, 40, 1, 0.05)])
    two = make_profile(both, nothing)
    neighbour = make_profile(around(unit(one + 0.8 * middles[2]), 80, 2, 0.05), nothing)
    asked = around(one, 300, 3, 0.05)
    assert (asked @ two.centre < asked @ neighbour.centre).mean() > 0.5, "by the middles alone they would go elsewhere"
    assert (two.scores(asked) > neighbour.scores(asked)).mean() > 0.9


def test_the_threshold_is_one_that_held_out_questions_pass_and_not_those_trained_on(middles):
    training, held_out = around(middles[0], 50, 0, spread=0.05), around(middles[0], 200, 1, spread=0.3)
    profile = make_profile(training, held_out, miss=0.05)
    below = (profile.scores(held_out) < profile.threshold).mean()
    assert below == 0.05
    assert (profile.scores(training) > profile.threshold).all()
    assert make_profile(training, held_out[:3], miss=0.05).threshold == pytest.approx(
        profile.scores(held_out[:3]).min()
    )


def test_without_held_out_questions_each_is_held_against_the_others(middles):
    training, nothing = around(middles[0], 60, 0), np.zeros((0, 64), "f4")
    profile = make_profile(training, nothing, miss=0.02)
    others = [make_profile(np.delete(training, n, axis=0), nothing).scores(training[n : n + 1])[0] for n in range(60)]
    assert profile.threshold == pytest.approx(np.sort(others)[1], abs=1e-6)
    assert profile.threshold < np.sort(profile.scores(training))[1], "a question is nearer to a middle that it is in"
    assert make_profile(training[:1], nothing).threshold == 1.0


def test_a_profile_is_the_same_for_the_same_questions_and_survives_a_cache(middles):
    training, held_out = around(middles[0], 50, 0), around(middles[0], 20, 1)
    profile = make_profile(training, held_out)
    again = Profile.from_bytes(profile.to_bytes())
    assert np.array_equal(again.centre, profile.centre)
    assert np.array_equal(again.examples, training)
    assert (again.threshold, again.held_out) == (profile.threshold, 20)
    assert np.linalg.norm(profile.centre) == pytest.approx(1, abs=1e-6)
    assert make_profile(training, held_out).to_bytes() == profile.to_bytes()


def test_weights_are_steps_that_add_up_to_one():
    assert quantised([0.7, 0.3], 8) == [0.75, 0.25]
    assert quantised([0.71, 0.31], 8) == quantised([0.69, 0.29], 8), "alike questions share a mixture"
    assert quantised([1, 1, 1], 8) == [0.375, 0.375, 0.25]
    assert quantised([0.99, 0.01], 8) == [1.0, 0.0]
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = quantised(list(rng.random(rng.integers(1, 6)) + 0.01), 8)
        assert sum(weights) == 1.0
        assert all((weight * 8).is_integer() for weight in weights)
