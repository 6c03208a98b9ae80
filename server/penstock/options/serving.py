"""Options of the server as a whole, and of where its models come from."""

from dataclasses import dataclass

from penstock.options.flag import option


@dataclass(frozen=True)
class ServingOptions:
    """The server as a whole."""

    server_name: str = option(
        "penstock", "server", "Name in ServerMetadata.", aliases=("id", "server-id")
    )
    processes: int = option(
        1,
        "server",
        "Whole servers that share the gRPC port, each with every model, for models that keep one "
        "interpreter busy.",
        minimum=1,
        maximum=256,
    )
    exit_timeout_secs: int = option(
        30, "server", "How long a stopping server waits for what was accepted.", minimum=0
    )
    drain_delay: float = option(
        -1.0,
        "server",
        "Seconds to go on serving, not ready, after SIGTERM, so that load balancers notice "
        "(-1: 5 under Kubernetes, else 0).",
        metavar="SECONDS",
    )
    exit_on_error: bool = option(
        True, "server", "End with an error if a model does not load at start."
    )
    strict_readiness: bool = option(
        True, "server", "Ready only when every selected model is ready (false: once up)."
    )
    rate_limit: str = option(
        "off",
        "server",
        "execution_count: an instance executes when it has the resources that its group's "
        "rate_limiter names, with chances by priority (each of several processes for itself).",
        choices=("off", "execution_count"),
    )
    rate_limit_resource: tuple[str, ...] = option(
        (),
        "server",
        "How much there is of a resource, on every device or on one (else the most that any "
        "instance needs); may be repeated.",
        metavar="NAME:COUNT[:DEVICE]",
    )
    stall_dump_secs: float = option(
        2.0,
        "server",
        "Write a stack dump when the event loop stands still for so long (0: never).",
        minimum=0,
        metavar="SECONDS",
    )
    config_file: str = option(
        "", "server", "JSON or YAML file with options; flags and environment win over it."
    )


@dataclass(frozen=True)
class RepositoryOptions:
    """Where models come from and when they are loaded."""

    model_repository: tuple[str, ...] = option(
        (),
        "repository",
        "Directory of models, or of one model; may be repeated.",
        aliases=("model-store",),
        metavar="DIR",
    )
    model_control_mode: str = option(
        "none",
        "repository",
        "none: load all at start and change nothing; poll: follow the directory; "
        "explicit: load what --load-model and the RPCs name.",
        choices=("none", "poll", "explicit"),
    )
    load_model: tuple[str, ...] = option(
        (),
        "repository",
        "Model to load at start in explicit mode; may be repeated, * means all.",
        metavar="NAME",
    )
    repository_poll_secs: float = option(
        15.0, "repository", "Seconds between two looks in mode poll.", minimum=0.05
    )
    model_name: str = option(
        "", "repository", "Name of the model if --model-repository is one model's directory."
    )
    model_config_name: str = option(
        "", "repository", "Use configs/NAME.pbtxt of each model that has it."
    )
    model_namespacing: bool = option(
        False,
        "repository",
        "A name may be in several repositories: each such model is served as FOLDER::NAME, after "
        "its repository's folder.",
    )
    model_load_thread_count: int = option(
        4, "repository", "Models loaded at the same time.", minimum=1
    )
    model_load_retry_count: int = option(
        0, "repository", "How often a load that failed at start is tried again.", minimum=0
    )
    disable_auto_complete_config: bool = option(
        False, "repository", "Take configurations as they are; ask no model to complete them."
    )
    allow_pickle: tuple[str, ...] = option(
        (),
        "repository",
        "Model whose weights may be a pickle, which can run code; may be repeated.",
        metavar="NAME",
    )
