"""Options of who may call what."""

from dataclasses import dataclass

from penstock.options.flag import option


@dataclass(frozen=True)
class AccessOptions:
    """Who may call what."""

    auth_config: str = option(
        "",
        "access",
        "JSON or YAML file with the tokens and the issuers of signed claims (JWT) that are known, "
        "and the groups of RPCs and models that each allows; read again on SIGHUP.",
        metavar="FILE",
    )
