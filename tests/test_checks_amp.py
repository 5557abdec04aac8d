"""The checks of notebook 07 tell a stub, a right answer and each usual mistake apart."""

import itertools

import pytest
import torch
from course import checks
from torch import nn
from torch.nn import functional as F

CLIP = nn.utils.clip_grad_norm_


@pytest.mark.parametrize("check", [checks.training_loop, checks.accumulation])
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_07_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


@pytest.mark.parametrize("check", [checks.training_loop, checks.accumulation])
@pytest.mark.parametrize("answer", [None, {}, torch.ones(3)])
def test_notebook_07_not_a_function(check_output, check, answer):
    assert check_output(check, answer).endswith("Give the function itself, without calling it.")


# 1: the training loop


def make_loop(scaled=True, unscaled=True, updated=True, saved=True, **changes):
    """The loop of the exercise, with some of its faults repaired, or with other ones."""
    options = {
        "clip": lambda model, scaler: CLIP(model.parameters(), 1.0),
        "unscale": lambda scaler, optimizer: scaler.unscale_(optimizer),
        "step": lambda scaler, optimizer: scaler.step(optimizer),
        "update": lambda scaler: scaler.update(),
        "early": lambda scaler: None,
        "save": lambda scaler: scaler.state_dict(),
        "restore": lambda scaler, checkpoint: scaler.load_state_dict(checkpoint["scaler"]),
        "restore_model": lambda model, checkpoint: model.load_state_dict(checkpoint["model"]),
        "returned": lambda checkpoint: checkpoint,
    } | changes

    def train(model, loss, optimizer, scaler, batches, checkpoint=None):
        if checkpoint is not None:
            options["restore_model"](model, checkpoint)
            optimizer.load_state_dict(checkpoint["optimizer"])
            if saved:
                options["restore"](scaler, checkpoint)
        for x, target in batches:
            optimizer.zero_grad()
            with torch.autocast(x.device.type, dtype=torch.float16):
                value = loss(model(x), target)
            scaled_value = scaler.scale(value)
            (scaled_value if scaled else value).backward()
            if unscaled:
                options["unscale"](scaler, optimizer)
            options["clip"](model, scaler)
            options["early"](scaler)
            options["step"](scaler, optimizer)
            if updated:
                options["update"](scaler)
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        if saved and options["save"]:
            checkpoint["scaler"] = options["save"](scaler)
        return options["returned"](checkpoint)

    return train


def test_training_loop_right(check_output):
    assert "Exercise 1: right." in check_output(checks.training_loop, make_loop())


def test_training_loop_clipped_at_the_scale_is_right_too(check_output):
    clip = {"clip": lambda model, scaler: CLIP(model.parameters(), scaler.get_scale())}
    assert "right." in check_output(checks.training_loop, make_loop(unscaled=False, **clip))


def test_training_loop_as_it_is_given_counts_as_not_attempted(check_output):
    text = check_output(checks.training_loop, make_loop(False, False, False, False))
    assert text == "Exercise 1: not attempted yet"


FAULTS = {
    "scaled": "1024 times too small",
    "unscaled": "clipped while it was scaled",
    "updated": "After a step the scaler must be told",
    "saved": "What else has a state_dict()?",
}


@pytest.mark.parametrize(
    "faults",
    [set(f) for n in (1, 2, 3) for f in itertools.combinations(FAULTS, n)],
    ids=lambda faults: "-".join(sorted(faults)),  # the same in both processes of `make test`
)
def test_training_loop_says_how_many_faults_are_left(check_output, faults):
    text = check_output(checks.training_loop, make_loop(**{name: False for name in faults}))
    assert text.startswith("Exercise 1: not right yet.")
    assert ("One fault is left" if len(faults) == 1 else f"{len(faults)} faults are left") in text
    assert FAULTS[next(name for name in FAULTS if name in faults)] in text


def step_directly(scaler, optimizer):
    optimizer.step()


@pytest.mark.parametrize(
    "changes, hint",
    [
        ({"step": step_directly}, "must be skipped, and the next one not"),
        ({"step": step_directly, "unscaled": False}, "that is what `scaler.step` is for"),
        ({"clip": lambda model, scaler: None}, "reaches the optimizer unclipped"),
        ({"unscale": lambda s, o: (s.unscale_(o), s.unscale_(o))}, "already been called"),
        ({"early": lambda scaler: scaler.update()}, "1024 times too small"),
        ({"update": lambda s: s.update(2.0**10)}, "Two good steps should double this scale"),
        (
            {
                "save": lambda scaler: scaler.get_scale(),
                "restore": lambda s, c: s.load_state_dict(
                    torch.amp.GradScaler("cpu", init_scale=c["scaler"]).state_dict()
                ),
            },
            "state_dict() holds both",
        ),
        ({"restore": lambda scaler, checkpoint: None}, "a new one does not load it"),
        ({"save": None}, "asked for 'scaler', which it does not hold"),
        ({"restore_model": lambda model, checkpoint: None}, "the weights of the model are not"),
        ({"returned": lambda checkpoint: [checkpoint]}, "a dict; this is of type list"),
        ({"returned": lambda checkpoint: None}, "a dict; this is of type NoneType"),
        ({"step": lambda s, o: (s.step(o), o.step())}, "2 steps for one batch"),
        ({"step": lambda s, o: None}, "took no step"),
        ({"clip": lambda model, scaler: CLIP(model.parameters(), 0.1)}, "must reach the optimizer"),
    ],
)
def test_training_loop_wrong(check_output, changes, hint):
    text = check_output(checks.training_loop, make_loop(**changes))
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def test_training_loop_without_a_scaler(check_output):
    def train(model, loss, optimizer, scaler, batches, checkpoint=None):
        for x, target in batches:
            optimizer.zero_grad()
            loss(model(x), target).backward()
            CLIP(model.parameters(), 1.0)
            optimizer.step()
        return {}

    text = check_output(checks.training_loop, train)
    assert "not right yet" in text and "should double this scale" in text


# 2: accumulation


def make_accumulation(**changes):
    options = {
        "weight": lambda size, whole, parts: size / whole,
        "zero": lambda optimizer: optimizer.zero_grad(),
        "zero_part": lambda optimizer: None,
        "scale": lambda scaler, value: scaler.scale(value),
        "step": lambda scaler, optimizer: scaler.step(optimizer),
        "update": lambda scaler: scaler.update(),
        "step_part": lambda scaler, optimizer: None,
        "returned": lambda values, sizes: sum(v * n for v, n in zip(values, sizes)) / sum(sizes),
    } | changes

    def step(model, loss, optimizer, scaler, parts):
        options["zero"](optimizer)
        sizes = [len(x) for x, _ in parts]
        values = []
        for x, target in parts:
            options["zero_part"](optimizer)
            with torch.autocast(x.device.type, dtype=torch.float16):
                value = loss(model(x), target)
            weight = options["weight"](len(x), sum(sizes), len(parts))
            options["scale"](scaler, value * weight).backward()
            values.append(value.item())
            options["step_part"](scaler, optimizer)
        options["step"](scaler, optimizer)
        options["update"](scaler)
        return options["returned"](values, sizes)

    return step


def test_accumulation_right(check_output):
    kinds = (
        float,
        torch.tensor,
        lambda v: torch.tensor([v]),
        lambda v: nn.Parameter(torch.tensor(v)),
    )
    for returned in kinds:
        answer = make_accumulation(
            returned=lambda values, sizes, kind=returned: kind(
                sum(v * n for v, n in zip(values, sizes)) / sum(sizes)
            )
        )
        assert "Exercise 2: right." in check_output(checks.accumulation, answer)


def test_accumulation_of_sums_is_right_too(check_output):
    def step(model, loss, optimizer, scaler, parts):
        optimizer.zero_grad()
        whole, total = sum(len(x) for x, _ in parts), 0.0
        for x, target in parts:
            with torch.autocast(x.device.type, dtype=torch.float16):
                value = loss(model(x), target) * len(x)
            scaler.scale(value / whole).backward()
            total += value.detach()
        scaler.step(optimizer)
        scaler.update()
        return total / whole

    assert "right." in check_output(checks.accumulation, step)


@pytest.mark.parametrize(
    "changes, hint",
    [
        ({"weight": lambda size, whole, parts: 1}, "as if it were the whole batch"),
        ({"weight": lambda size, whole, parts: 1 / parts}, "weigh by its size"),
        ({"weight": lambda size, whole, parts: size / whole / parts}, "number of parts, beside"),
        ({"zero_part": lambda optimizer: optimizer.zero_grad()}, "Only the last part is left"),
        (
            {
                "zero_part": lambda optimizer: optimizer.zero_grad(),
                "weight": lambda size, whole, parts: 1,
            },
            "Only the last part is left",
        ),
        ({"zero": lambda optimizer: None}, "of the step before are still there"),
        ({"scale": lambda scaler, value: (scaler.scale(value), value)[1]}, "go backward unscaled"),
        ({"scale": lambda scaler, value: value}, "Nothing has gone through `scaler.scale`"),
        ({"step": step_directly, "update": lambda scaler: None}, "still scaled"),
        ({"step": step_directly}, "that is what `scaler.step` is for"),
        ({"update": lambda scaler: None}, "must be updated, once per step"),
        (
            {
                "step_part": lambda s, o: (s.step(o), s.update()),
                "step": lambda *a: None,
                "update": lambda *a: None,
            },
            "3 steps for one batch",
        ),
        ({"step_part": lambda s, o: s.update()}, "PyTorch stops here"),
        ({"step_part": lambda s, o: s.unscale_(o)}, "PyTorch stops here: unscale_() has already"),
        ({"step": lambda *a: None, "update": lambda *a: None}, "took no step"),
        ({"returned": lambda values, sizes: None}, "Return the mean loss"),
        ({"returned": lambda values, sizes: sum(values)}, "the sum over the parts"),
        ({"returned": lambda v, sizes: sum(v) / len(v)}, "is not weighed by size"),
        ({"returned": lambda values, sizes: values[-1]}, "that of the last part"),
        ({"returned": lambda values, sizes: values}, "is not one number"),
        ({"returned": lambda values, sizes: 0.0}, "0 times as large"),
        ({"weight": lambda size, whole, parts: size / 10}, "not that of the whole batch"),
    ],
)
def test_accumulation_wrong(check_output, changes, hint):
    text = check_output(checks.accumulation, make_accumulation(**changes))
    assert text.startswith("Exercise 2: not right yet.") and hint in text


# 3: the layer


def hole_loss(output, photo, mask):
    difference = torch.where(mask > 0, 0, output.float() - photo).abs()
    return difference.sum() / difference.numel()


def half_loss(output, photo, mask, cast=lambda x: x):
    difference = ((1 - mask) * (output - photo)).abs().to(output.dtype)
    return cast(difference.sum() / difference.numel())


@pytest.mark.parametrize(
    "answer",
    [(..., lambda *a: ...), (None, lambda *a: None), (..., lambda *a: None)],
    ids=["dots", "none", "both"],
)
def test_layer_found_stub(check_output, answer):
    assert check_output(checks.layer_found, answer) == "Exercise 3: not attempted yet"


@pytest.mark.parametrize(
    "function",
    [
        hole_loss,
        lambda o, p, m: F.l1_loss(o.float() * (1 - m), p * (1 - m)),
        lambda o, p, m: ((1 - m) * (o - p)).abs().mean(dtype=torch.float32),
        lambda o, p, m: ((1 - m) * (o.float() - p).abs()).mean(),
        lambda o, p, m: ((1 - m) * (o - p).abs()).sum(dtype=torch.float32) / o.numel(),
    ],
)
@pytest.mark.parametrize("name", ["hole", ("activations", "hole")])
def test_layer_found_right(check_output, name, function):
    assert "Exercise 3: right." in check_output(checks.layer_found, (name, function))


@pytest.mark.parametrize(
    "name, function, hint",
    [
        (..., hole_loss, "Which layer is it?"),
        ("net.decoder.0.conv", hole_loss, "'net.decoder.0.conv' is not the layer"),
        (("gradients", "net"), hole_loss, "'net' is not the layer"),
        (7, hole_loss, "7 is not the layer"),
        ("hole", lambda *a: ..., "Now write what it computes"),
        ("hole", half_loss, "ends at 65504"),
        ("hole", lambda *a: half_loss(*a, cast=torch.Tensor.float), "cast too late"),
        ("hole", lambda *a: hole_loss(*a).half(), "The loss is torch.float16"),
        ("hole", lambda o, p, m: ((1 - m) * (o - p)).abs().half().mean(), "leaves sums and means"),
        ("hole", lambda o, p, m: hole_loss(o, p, 1 - m), "of the valid pixels"),
        ("hole", lambda o, p, m: (o.float() - p).abs().mean(), "of all pixels"),
        ("hole", lambda o, p, m: hole_loss(o, p, m) / (1 - m).mean(), "divides by all"),
        ("hole", lambda o, p, m: hole_loss(o.detach(), p, m), "no gradient leads back"),
        ("hole", lambda *a: hole_loss(*a) * 1.01, "is a part of it still"),
        (
            "hole",
            lambda o, p, m: (((1 - m) * (o - p)).abs().half() / o.numel()).float().sum(),
            "is a part of it still computed in float16",
        ),
        ("hole", lambda *a: 0.5, "a tensor with one value"),
        ("hole", lambda o, p, m: o, "a tensor with one value"),
    ],
)
def test_layer_found_wrong(check_output, name, function, hint):
    text = check_output(checks.layer_found, (name, function))
    assert text.startswith("Exercise 3: not right yet.") and hint in text


@pytest.mark.parametrize("answer", ["hole", ("hole",), hole_loss, ("hole", "hole_loss"), None])
def test_layer_found_of_another_kind(check_output, answer):
    assert "Give two things" in check_output(checks.layer_found, answer)
