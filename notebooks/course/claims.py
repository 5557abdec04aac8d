"""What a text says about speed, beside what the learner's own machine has just measured."""


def show_claim(claim: str, holds: bool) -> None:
    """Prints a claim about measured times, and whether it holds here.

    A claim that does not hold stops nothing: the machine may be busy, or of another kind.
    """
    print(f"here, too: {claim}" if holds else f"not on this machine: {claim}")
