"""The random augmentation: its ranges, its extremes, and what one draw shares."""

from dataclasses import replace

import torch

from adapters.functional import augment as augmentation
from adapters.functional.augment import RANGES, Draw, augment, draw

STILL = Draw((0, 1, 2, 3, 4), (1.0, 1.0, 1.0, 0.0, 1.0), 0.0, (0, 0), 1.0, 0.001, flip=False)


def images(count=4, channels=3, side=16, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_draws_fill_their_ranges():
    made = generator()
    draws = [draw(made, 32, 32) for _ in range(2000)]

    for number, (low, high) in enumerate(RANGES):
        factors = torch.tensor([d.factors[number] for d in draws])
        assert low <= factors.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < factors.max() <= high
    degrees = torch.tensor([d.degrees for d in draws])
    assert -15 <= degrees.min() < -14.5
    assert 14.5 < degrees.max() <= 15
    assert {d.shift[0] for d in draws} == set(range(-4, 5))
    assert 0.45 < sum(d.flip for d in draws) / len(draws) < 0.55
    assert len({d.order for d in draws}) == 120


def test_a_draw_that_changes_nothing_leaves_but_slight_noise():
    x = images() * 0.8 + 0.1

    difference = augment(x, STILL, generator()) - x

    assert difference.abs().max() < 6 * augmentation.NOISE
    assert 0.8 * augmentation.NOISE < difference.std() < 1.2 * augmentation.NOISE


def test_equal_seeds_give_equal_images_within_the_unit_range():
    for channels in (1, 3):
        for seed in range(20):
            x = images(channels=channels, seed=seed)
            drawn = draw(generator(seed), 16, 16)
            one, other = augment(x, drawn, generator(seed)), augment(x, drawn, generator(seed))
            assert torch.equal(one, other)
            assert 0 <= one.min() <= one.max() <= 1
            assert one.shape == x.shape


def test_a_shift_of_whole_pixels_moves_the_image_by_as_many():
    x = torch.zeros(1, 1, 17, 17)
    x[..., 8, 8] = 1.0

    moved = augmentation.affine(x, Draw(STILL.order, STILL.factors, 0.0, (3, -2), 1.0, 0.1, flip=False))

    assert divmod(int(moved.argmax()), 17) == (6, 11)
    assert moved.max() > 0.999


def test_a_quarter_turn_turns_images_of_any_shape():
    x = torch.zeros(1, 1, 9, 21)
    x[..., 4, 12] = 1.0

    turned = augmentation.affine(x, Draw(STILL.order, STILL.factors, 90.0, (0, 0), 1.0, 0.1, flip=False))

    assert int(turned.argmax()) % 21 == 10
    assert abs(int(turned.argmax()) // 21 - 4) == 2


def test_hue_goes_round_the_circle_and_leaves_grey_as_it_is():
    x = images()

    torch.testing.assert_close(augmentation.hue(augmentation.hue(x, 0.3), 0.7), x, atol=1e-5, rtol=0)
    grey = augmentation.grey(x).expand(-1, 3, -1, -1)
    torch.testing.assert_close(augmentation.hue(grey, 0.2), grey, atol=1e-6, rtol=0)


def test_the_sharp_augmentation_stays_within_the_unit_range_at_every_size():
    for side in (1, 2, 3, 16, 33):
        for seed in range(10):
            x = images(channels=3 if seed % 2 else 1, side=side, seed=seed)
            drawn = draw(generator(seed), side, side)
            seen = augmentation.augment_sharp(x, drawn)
            assert torch.equal(seen, augmentation.augment_sharp(x, drawn))
            assert 0 <= seen.min() <= seen.max() <= 1
            assert seen.shape == x.shape


def test_a_draw_that_changes_nothing_leaves_the_sharp_view_as_it_was():
    # Bilinear sampling between whole pixels rounds; there is neither blur nor noise.
    x = images() * 0.8 + 0.1

    torch.testing.assert_close(augmentation.augment_sharp(x, STILL), x, atol=1e-5, rtol=0)


def test_the_sharp_view_mirrors_at_the_border_where_the_other_repeats():
    x = images(side=16) * 0.8 + 0.1
    shifted = Draw(STILL.order, STILL.factors, 0.0, (2, 0), 1.0, 0.001, flip=False)

    mirrored, repeated = augmentation.augment_sharp(x, shifted), augment(x, shifted, generator())

    torch.testing.assert_close(mirrored[..., :2], x[..., 1:3].flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(repeated[..., :2], x[..., :1].expand(-1, -1, -1, 2), atol=6 * augmentation.NOISE, rtol=0)


def test_views_stay_within_the_value_range_of_the_model():
    low, high = -2.0, 3.0
    x = images() * (high - low) + low

    for seed in range(10):
        for view in (augmentation.random_view, augmentation.random_sharp_view):
            seen = view(x, generator(seed), (low, high))
            assert low <= seen.min() <= seen.max() <= high
            assert seen.std() > 0.5


def test_repeating_the_border_gives_what_public_codes_padding_and_cropping_does():
    for height, width in ((16, 16), (17, 19), (33, 47)):
        x = torch.rand(3, 3, height, width, generator=generator(1), dtype=torch.float64)
        drawn = draw(generator(height), height, width)
        top, left = height // 2, width // 2
        padded = torch.nn.functional.pad(augmentation.colour(x, drawn), (left, left, top, top), mode="replicate")
        whole = augmentation.blur(augmentation.affine(padded, drawn), drawn.sigma)
        whole = whole[..., top : top + height, left : left + width]
        whole = whole.flip(-1) if drawn.flip else whole
        noise = augmentation.NOISE * torch.randn(x.shape, generator=generator(2), dtype=x.dtype)

        torch.testing.assert_close(augment(x, drawn, generator(2)), (whole + noise).clamp(0, 1), atol=1e-12, rtol=0)


def test_small_and_long_images_have_no_black_corners():
    for height, width in ((1, 1), (2, 3), (5, 40), (40, 5)):
        bright = torch.full((1, 1, height, width), 0.5)
        for seed in range(20):
            drawn = replace(draw(generator(seed), height, width), factors=STILL.factors)
            assert (augment(bright, drawn, generator(seed)) - bright).abs().max() < 6 * augmentation.NOISE


def test_a_neighbour_that_rounding_would_lose_is_left_out_of_the_blur():
    x = images().double()
    for sigma in (0.001, 0.1, 0.17, 0.35, 0.5):
        torch.testing.assert_close(
            augmentation.blur(x.float(), sigma).double(), augmentation.blur(x, sigma), atol=3e-7, rtol=0
        )
