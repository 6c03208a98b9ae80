"""The server's log, for models."""

import logging

_log = logging.getLogger("penstock.model")


class Logger:
    """Writes lines to the server's log."""

    INFO = 0
    WARNING = 1
    ERROR = 2
    VERBOSE = 3

    @staticmethod
    def log(message: str, level: int = INFO) -> None:
        """Write a line at one of this class's levels."""
        _log.log(_LEVELS.get(level, logging.INFO), "%s", message)

    @staticmethod
    def log_info(message: str) -> None:
        """Write a line for information."""
        _log.info("%s", message)

    @staticmethod
    def log_warn(message: str) -> None:
        """Write a warning."""
        _log.warning("%s", message)

    @staticmethod
    def log_error(message: str) -> None:
        """Write an error."""
        _log.error("%s", message)

    @staticmethod
    def log_verbose(message: str) -> None:
        """Write a line that is shown with --log-verbose only."""
        _log.debug("%s", message)


_LEVELS = {
    Logger.INFO: logging.INFO,
    Logger.WARNING: logging.WARNING,
    Logger.ERROR: logging.ERROR,
    Logger.VERBOSE: logging.DEBUG,
}
