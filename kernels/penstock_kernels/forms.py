"""The forms that a kernel may have for one and the same call: by scalars, or by tensor cores."""

from dataclasses import dataclass

AUTO, SCALAR, MMA = "auto", "scalar", "mma"
FORMS = (AUTO, SCALAR, MMA)


@dataclass(frozen=True, slots=True)
class Choice:
    """A form, and why it is this one."""

    form: str
    why: str


def taken(form: str, choice: Choice) -> str:
    """The form of a call that asks for one, where auto takes the choice. ValueError where tensor
    cores are asked for and the choice had to be another.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r}, expected one of {', '.join(FORMS)}")
    if form == MMA != choice.form:
        raise ValueError(f"{choice.why} by the form {MMA}")
    return choice.form if form == AUTO else form
